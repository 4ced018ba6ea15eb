// Joints of a crop in C++, without Python:  pose LIBRARY MODEL.pt2 CROP.ppm
// LIBRARY is pyranet_fast/_C.abi3.so, which holds the network's operators; MODEL.pt2 is made by
// python -m pyranet_fast.export CHECKPOINT MODEL.pt2 --aot --decode; CROP.ppm (P6) has the size that it takes.
// T=$(python -c "import torch; print(torch.__path__[0])")
// c++ -std=c++20 pose.cpp -o pose -I$T/include -I$T/include/torch/csrc/api/include -L$T/lib -Wl,-rpath,$T/lib
//   -ltorch -ltorch_cpu -lc10 -ldl
#include <ATen/ATen.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <fstream>
#include <string>

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "usage: pose LIBRARY MODEL.pt2 CROP.ppm\n"), 2;
  if (!dlopen(argv[1], RTLD_LAZY | RTLD_GLOBAL)) return std::fprintf(stderr, "%s\n", dlerror()), 2;
  torch::inductor::AOTIModelPackageLoader model(argv[2]);
  std::ifstream file(argv[3], std::ios::binary);
  std::string magic;
  int width = 0, height = 0, most = 0;
  file >> magic >> width >> height >> most;
  file.get();  // the one byte of space before the pixels
  at::Tensor crop = at::empty({1, height, width, 3}, at::kByte);
  if (magic != "P6" || most != 255 || !file.read(static_cast<char*>(crop.data_ptr()), crop.numel()))
    return std::fprintf(stderr, "%s is no PPM of 8 bits\n", argv[3]), 2;
  const auto outputs = model.run({crop});  // joints (1, K, 2), scores (1, K), heatmaps (1, K, h, w)
  const auto joints = outputs[0].accessor<float, 3>();
  const auto scores = outputs[1].accessor<float, 2>();
  for (int64_t k = 0; k < joints.size(1); ++k)
    std::printf("%.2f %.2f %.4f\n", joints[0][k][0], joints[0][k][1], scores[0][k]);
}
