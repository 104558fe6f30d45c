"""Native kernels: C++ behind a C ABI, loaded by ctypes, with a numpy or onnxruntime way around each of them."""
