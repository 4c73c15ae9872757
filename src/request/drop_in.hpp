// The class that takes the place of the request's: what the Triton and the CUDA answer have alike.
#pragma once

#include <string>
#include <string_view>

#include "request/code.hpp"

namespace tconv::request {

// `class NAME(nn.Module)` with the constructor of the code it replaces, whose forward returns
// conv_transpose1d(x, weight, bias, stride, padding, output_padding, dilation, groups), a function of the file that it
// is for; two empty lines before it. `check`: a function of that file that the constructor ends with, of all these but
// x and bias; none where it is empty.
[[nodiscard]] std::string module_class(const Module& module, std::string_view check = {});

}  // namespace tconv::request
