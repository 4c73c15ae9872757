// The plan's kernel as CUDA C++ for users: a file that nvcc compiles alone, and the drop-in around it.
#pragma once

#include <string>

#include "problem/problem.hpp"
#include "request/code.hpp"
#include "target/target.hpp"

namespace tconv::cuda {

struct Answer {
  std::string solver;
  double seconds = 0;   // predicted, of one run
  std::string source;   // answer.cu: the workload's layer in its arithmetic, at any batch and length
  std::string drop_in;  // answer_cuda.py: imports; kernels; wrapper; class ModelNew(nn.Module), for that layer alone
};

// Same input, same bytes. Where the module always or never has a bias, that counts, and not the workload's. Throws
// Error(unsupported) where no solver serves the workload.
[[nodiscard]] Answer emit(const request::Module& module, const Workload& workload, const Target& target);

}  // namespace tconv::cuda
