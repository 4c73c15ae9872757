// Asks cuda_occupancy.h for the blocks per SM of a grid of cases; prints occupancy.json.
//   g++ -std=c++20 -I<toolkit>/include make_occupancy.cpp -o make_occupancy && ./make_occupancy > occupancy.json
#include <cuda_occupancy.h>

#include <cstdio>

int main() {
  const struct {
    const char* key;
    int major, minor, threads, smem_kib;
  } machines[] = {{"a100", 8, 0, 2048, 164}, {"rtx3090", 8, 6, 1536, 100}, {"rtx4090", 8, 9, 1536, 100},
                  {"h200", 9, 0, 2048, 228}, {"b200", 10, 0, 2048, 228},   {"rtx5090", 12, 0, 1536, 100}};
  const int registers[] = {16, 32, 40, 64, 72, 96, 128, 168, 224, 255};
  const int threads[] = {32, 96, 128, 160, 256, 512, 1024, 1056};
  const int shared[] = {0, 1, 8192, 16384, 33792, 49152, 65536, 101376, 101377, 166912, 232448, 232449};
  std::printf("{\"made_by\": \"make_occupancy.cpp, cuda_occupancy.h %d.%d\", \"cases\": [", __CUDA_OCC_MAJOR__,
              __CUDA_OCC_MINOR__);
  int index = 0;
  const char* separator = "\n";
  for (const auto& machine : machines) {
    for (const int r : registers) {
      for (const int t : threads) {
        for (const int s : shared) {
          if (index++ % 19 != 0) continue;  // coprime to every axis: all values of each appear with many of the others
          cudaOccDeviceProp device{};
          device.computeMajor = machine.major;
          device.computeMinor = machine.minor;
          device.maxThreadsPerBlock = 1024;
          device.maxThreadsPerMultiprocessor = machine.threads;
          device.regsPerBlock = device.regsPerMultiprocessor = 65536;
          device.warpSize = 32;
          device.sharedMemPerBlock = 48 * 1024;
          device.sharedMemPerMultiprocessor = static_cast<size_t>(machine.smem_kib) * 1024;
          device.sharedMemPerBlockOptin = device.sharedMemPerMultiprocessor - 1024;
          device.reservedSharedMemPerBlock = 1024;
          device.numSms = 1;
          cudaOccFuncAttributes function{};
          function.maxThreadsPerBlock = 1024;
          function.numRegs = r;
          function.maxDynamicSharedSizeBytes = static_cast<size_t>(s);
          function.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
          cudaOccDeviceState state{};
          cudaOccResult result;
          const auto status =
              cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &function, &state, t, static_cast<size_t>(s));
          if (status != CUDA_OCC_SUCCESS) {
            std::fprintf(stderr, "%s %d %d %d: status %d\n", machine.key, r, t, s, status);
            return 1;
          }
          std::printf(
              "%s {\"target\": \"%s\", \"registers\": %d, \"threads\": %d, \"shared_memory\": %d, \"blocks\": %d}",
              separator, machine.key, r, t, s, result.activeBlocksPerMultiprocessor);
          separator = ",\n";
        }
      }
    }
  }
  std::printf("\n]}\n");
}
