"""Runs bundles on a GPU: tensors stay in its memory from the first step to the last, and decisions with them."""
