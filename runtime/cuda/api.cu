#include "common.cuh"

int32_t fv_cuda_abi() { return FV_CUDA_ABI; }

const char* fv_cuda_error(int32_t error) { return cudaGetErrorName(static_cast<cudaError_t>(error)); }
