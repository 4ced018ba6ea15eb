// Whether this library can be used on a GPU: its driver, code for its architecture, one tiny launch.
#include <cuda_runtime.h>

#include <cstdio>

namespace {

constexpr int kWritten = 0x5052;
__device__ int probed;

__global__ void probe_kernel(int value) { probed = value; }

struct Failure {
  const char* step;
  cudaError_t error;
};

// Without an allocation, which full memory would refuse, and on a stream of its own: the caller's may be capturing.
Failure launch_and_read(int* read) {
  cudaStream_t stream = nullptr;
  if (cudaError_t e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking); e != cudaSuccess) return {"stream", e};
  probe_kernel<<<1, 1, 0, stream>>>(kWritten);
  Failure failure{"launch", cudaGetLastError()};
  if (failure.error == cudaSuccess) {
    failure = {"copy", cudaMemcpyFromSymbolAsync(read, probed, sizeof(int), 0, cudaMemcpyDeviceToHost, stream)};
  }
  if (failure.error == cudaSuccess) failure = {"kernel", cudaStreamSynchronize(stream)};
  cudaStreamDestroy(stream);
  return failure;
}

}  // namespace

// Probes the current device; `reason` is why its kernels cannot be used, or empty.
extern "C" __attribute__((visibility("default"))) void pyranet_fast_cuda_probe(char* reason, size_t size) {
  reason[0] = 0;
  int driver = 0, runtime = 0;
  cudaError_t error = cudaDriverGetVersion(&driver);
  if (error == cudaSuccess) error = cudaRuntimeGetVersion(&runtime);
  if (error == cudaSuccess && driver == 0) {
    std::snprintf(reason, size, "no NVIDIA driver was found");
    return;
  }
  // A driver serves all releases of its own major version.
  if (error == cudaSuccess && driver / 1000 < runtime / 1000) {
    std::snprintf(reason, size, "the driver serves CUDA %d.%d at most, and the kernels were built with CUDA %d.%d",
                  driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    return;
  }
  Failure failure{"driver", error};
  int read = 0;
  if (error == cudaSuccess) {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    failure = launch_and_read(&read);
    cudaThreadExchangeStreamCaptureMode(&mode);
  }
  if (failure.error != cudaSuccess) {
    std::snprintf(reason, size, "%s (%s)", cudaGetErrorString(failure.error), failure.step);
    cudaGetLastError();  // it must not be taken for the next launch's
  } else if (read != kWritten) {
    std::snprintf(reason, size, "a kernel ran and wrote %#x in place of %#x", read, kWritten);
  }
}
