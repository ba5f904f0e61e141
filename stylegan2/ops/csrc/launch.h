// Element types, and one loop over elements: a grid of threads under nvcc, a plain loop under a C++ compiler,
// which is how the arithmetic of ops.cu is tested where there is no GPU.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define HOST_DEVICE __host__ __device__ __forceinline__
using Half = __half;
#else
#define HOST_DEVICE inline
using Half = _Float16;
#endif

struct BFloat16 {
    uint16_t bits;
};

HOST_DEVICE float load(const float* p) { return *p; }
HOST_DEVICE float load(const Half* p) { return static_cast<float>(*p); }
HOST_DEVICE float load(const BFloat16* p) {
    uint32_t bits = static_cast<uint32_t>(p->bits) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

HOST_DEVICE void store(float* p, float value) { *p = value; }
HOST_DEVICE void store(Half* p, float value) { *p = static_cast<Half>(value); }
HOST_DEVICE void store(BFloat16* p, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    // Round to nearest, ties to even; a NaN must not round to infinity.
    p->bits = value != value ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#ifdef __CUDACC__
template <typename Index, typename Body>
__global__ void for_each_kernel(Body body, Index count) {
    // The sum is taken in 64 bits: past the end, a 32-bit index could wrap round.
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride)
        body(static_cast<Index>(i));
}

// body(i) for each i in [0, count); returns a cudaError_t, 0 for success.
template <typename Index, typename Body>
int for_each(Body body, int64_t count, void* stream) {
    const int64_t threads = 256, blocks = (count + threads - 1) / threads;
    if (count == 0) return 0;
    for_each_kernel<Index, Body><<<blocks < (1 << 20) ? blocks : 1 << 20, threads, 0,
                                   static_cast<cudaStream_t>(stream)>>>(body, static_cast<Index>(count));
    return cudaGetLastError();
}

extern "C" const char* stylegan2_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }
#else
template <typename Index, typename Body>
int for_each(Body body, int64_t count, void*) {
    for (int64_t i = 0; i < count; ++i) body(static_cast<Index>(i));
    return 0;
}

extern "C" const char* stylegan2_error(int) { return "error"; }
#endif
