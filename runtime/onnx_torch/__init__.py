"""ONNX files as torch programs: the engines of backend "torch". Imports torch and onnx, and is imported when such an
engine is opened."""
