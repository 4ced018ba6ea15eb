// Marks inline functions that the CPU and the CUDA kernels share.
#pragma once

#ifndef PF_HOST_DEVICE
#ifdef __CUDACC__
#define PF_HOST_DEVICE __host__ __device__
#else
#define PF_HOST_DEVICE
#endif
#endif
