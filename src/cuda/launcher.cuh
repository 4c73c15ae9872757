// --- the launcher -------------------------------------------------------------------------------
//
// Everything runs on `stream` of the current device, asynchronously; nothing is allocated, and a CUDA graph may capture
// it. Pointers are to device memory and need the alignment of one element, `packed` of 16 bytes. Strides count
// elements. Sizes that the layer has no output for, and a bias where the kernel takes none or its absence where it
// needs one, are cudaErrorInvalidValue.

// L_out of a row of `length` samples.
extern "C" long long conv_transpose1d_out_length(long long length) {
  return (length - 1) * Sizes::STRIDE - 2 * Sizes::PADDING + Sizes::DILATION * (Sizes::K - 1) + Sizes::OUTPUT_PADDING +
         1;
}

// Of the weights as the kernel reads them.
extern "C" long long conv_transpose1d_packed_bytes() { return Sizes::PACKED_BYTES; }

static cudaError_t pack_image(const Image& image, tconv::Pack call, cudaStream_t stream) {
  call.packed = static_cast<char*>(call.packed) + image.offset;
  void* arguments[] = {&call};
  return cudaLaunchKernel(reinterpret_cast<const void*>(image.pack), dim3(image.blocks), dim3(image.threads), arguments, 0,
                          stream);
}

// w (C_IN, C_OUT / GROUPS, K) -> packed, once for as many runs as the weights stay the same.
extern "C" cudaError_t conv_transpose1d_pack(const void* w, void* packed, long long stride_in, long long stride_out,
                                             long long stride_k, cudaStream_t stream) {
  for (const Image& image : IMAGES) {
    const cudaError_t failed = pack_image(image, {w, packed, stride_in, stride_out, stride_k}, stream);
    if (failed != cudaSuccess) return failed;
  }
  return cudaSuccess;
}

// Positions that the outputs touch; output t is at position (t + PADDING) / STRIDE.
static long long positions_of(long long out_length) {
  return (out_length - 1 + Sizes::PADDING) / Sizes::STRIDE - Sizes::PADDING / Sizes::STRIDE + 1;
}

static const Launch& launch_for(long long positions) {
  const Launch* fastest = LAUNCHES;
  for (const Launch& next : LAUNCHES) {
    if (next.from <= positions) fastest = &next;
  }
  return *fastest;
}

// x (batch, C_IN, length), bias (C_OUT) or null -> y (batch, C_OUT, L_out), whose samples are adjacent.
extern "C" cudaError_t conv_transpose1d_run(const void* x, const void* packed, const void* bias, void* y,
                                            long long batch, long long length, long long x_stride_b,
                                            long long x_stride_c, long long x_stride_t, long long y_stride_b,
                                            long long y_stride_c, cudaStream_t stream) {
  if (batch == 0) return cudaSuccess;
  const long long out_length = conv_transpose1d_out_length(length);
  if (batch < 0 || length < 1 || out_length < 1 || (bias == nullptr ? Sizes::NEEDS_BIAS : !Sizes::TAKES_BIAS))
    return cudaErrorInvalidValue;
  tconv::Call call{};
  call.x = x;
  call.bias = bias;
  call.y = y;
  call.batch = batch;
  call.length = length;
  call.out_length = out_length;
  call.x_stride_b = x_stride_b;
  call.x_stride_c = x_stride_c;
  call.x_stride_t = x_stride_t;
  call.y_stride_b = y_stride_b;
  call.y_stride_c = y_stride_c;

  const long long positions = positions_of(out_length);
  const Launch& launch = launch_for(batch * positions);
  call.w = static_cast<const char*>(packed) + IMAGES[launch.image].offset;
  long long most = launch.blocks;
  if (launch.persistent) {
    int device = 0, multiprocessors = 0;
    if (cudaError_t failed = cudaGetDevice(&device); failed != cudaSuccess) return failed;
    if (cudaError_t failed = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
        failed != cudaSuccess)
      return failed;
    most *= multiprocessors;
  }
  // Fewer blocks than tiles are a cap of kernels whose blocks take several in turn.
  const long long tiles = batch * ((positions + launch.positions - 1) / launch.positions) * launch.tiles;
  const long long blocks = tiles < most ? tiles : most / launch.cluster * launch.cluster;
  if (blocks > 0x7fffffff) return cudaErrorInvalidConfiguration;

  const void* const kernel = reinterpret_cast<const void*>(launch.run);
  if (launch.shared_bytes > 48 * 1024) {
    if (cudaError_t failed =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, launch.shared_bytes);
        failed != cudaSuccess)
      return failed;
  }
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = launch.cluster;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(launch.threads);
  config.dynamicSmemBytes = launch.shared_bytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = launch.cluster > 1 ? 1 : 0;
  void* arguments[] = {&call};
  return cudaLaunchKernelExC(&config, kernel, arguments);
}
