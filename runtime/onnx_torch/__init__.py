"""ONNX files as torch programs: the engines of backend "torch". Imports torch and onnx; the runtime imports it when such
an engine is opened."""
