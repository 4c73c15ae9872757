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

// w (C_IN, C_OUT / GROUPS, K) -> packed, once for as many runs as the weights stay the same.
extern "C" cudaError_t conv_transpose1d_pack(const void* w, void* packed, long long stride_in, long long stride_out,
                                             long long stride_k, cudaStream_t stream) {
  tconv::Pack call{};
  call.w = w;
  call.packed = packed;
  call.stride_in = stride_in;
  call.stride_out = stride_out;
  call.stride_k = stride_k;
  void* arguments[] = {&call};
  return cudaLaunchKernel(reinterpret_cast<const void*>(pack_weights), dim3(Sizes::PACK_BLOCKS),
                          dim3(Sizes::PACK_THREADS), arguments, 0, stream);
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
  call.w = packed;
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

  // Positions that the outputs touch; output t is at position (t + PADDING) / STRIDE.
  const long long positions =
      (out_length - 1 + Sizes::PADDING) / Sizes::STRIDE - Sizes::PADDING / Sizes::STRIDE + 1;
  const Launch* fastest = LAUNCHES;
  for (const Launch& next : LAUNCHES) {
    if (next.from <= batch * positions) fastest = &next;
  }
  const Launch& launch = *fastest;
  long long most = launch.blocks;
  if (launch.persistent) {
    int device = 0, multiprocessors = 0;
    if (cudaError_t failed = cudaGetDevice(&device); failed != cudaSuccess) return failed;
    if (cudaError_t failed = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
        failed != cudaSuccess)
      return failed;
    most *= multiprocessors;
  }
  // A block takes as many tiles as it must, so that any number of blocks computes everything.
  const long long tiles = batch * ((positions + launch.positions - 1) / launch.positions) * launch.tiles;
  const long long blocks = tiles < most ? tiles : most / launch.cluster * launch.cluster;

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
