"""What running engines of TensorRT and TensorRT-RTX takes; pipeline/tensorrt builds them."""
