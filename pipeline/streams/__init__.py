"""A clip through a bundle, measured: `foveate stream`."""
