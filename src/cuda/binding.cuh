
// --- PyTorch ------------------------------------------------------------------------------------

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

// x (B, C_IN, L) with any strides, weight (C_IN, C_OUT / GROUPS, K), bias (C_OUT) or none -> y (B, C_OUT, L_out), on
// the current stream of x's device. The weights are packed by every call, so that none is stale.
torch::Tensor conv_transpose1d_forward(const torch::Tensor& x, const torch::Tensor& weight,
                                       const std::optional<torch::Tensor>& bias) {
  constexpr std::int64_t channels = Sizes::C_IN, bias_channels = Sizes::C_OUT;
  TORCH_CHECK(x.dim() == 3 && x.size(1) == channels, "x is (batch, ", channels, ", length), not ", x.sizes());
  TORCH_CHECK(weight.dim() == 3 && weight.size(0) == channels && weight.size(1) == Sizes::C_OUT / Sizes::GROUPS &&
                  weight.size(2) == Sizes::K,
              "these kernels are for another weight than one of ", weight.sizes());
  TORCH_CHECK(x.is_cuda() && weight.device() == x.device() && weight.scalar_type() == x.scalar_type(),
              "x and weight are on one GPU and of one type");
  torch::Tensor bias_row;
  if (bias) {
    TORCH_CHECK(bias->dim() == 1 && bias->size(0) == bias_channels && bias->device() == x.device() &&
                    bias->scalar_type() == x.scalar_type(),
                "bias is (", bias_channels, ") where x is and of its type");
    bias_row = bias->contiguous();
  }
  const long long out_length = conv_transpose1d_out_length(x.size(2));
  TORCH_CHECK(x.size(2) > 0 && out_length > 0, "a row of ", x.size(2), " samples has no output");
  const c10::cuda::CUDAGuard guard(x.device());
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  torch::Tensor y = torch::empty({x.size(0), Sizes::C_OUT, out_length}, x.options());
  torch::Tensor packed = torch::empty({conv_transpose1d_packed_bytes()}, x.options().dtype(torch::kUInt8));
  const Image& image = IMAGES[launch_for(x.size(0) * positions_of(out_length)).image];  // the one that run will read
  C10_CUDA_CHECK(pack_image(
      image, {weight.data_ptr(), packed.data_ptr(), weight.stride(0), weight.stride(1), weight.stride(2)}, stream));
  C10_CUDA_CHECK(conv_transpose1d_run(x.data_ptr(), packed.data_ptr(), bias ? bias_row.data_ptr() : nullptr,
                                      y.data_ptr(), x.size(0), x.size(2), x.stride(0), x.stride(1), x.stride(2),
                                      y.stride(0), y.stride(1), stream));
  return y;
}
