// A layer planned for one device: compiled, ready to run at any batch and length.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/driver.hpp"
#include "cuda/solver.hpp"
#include "kernels/call.h"
#include "plan/engine.hpp"
#include "problem/layer.hpp"
#include "problem/problem.hpp"
#include "target/target.hpp"

namespace tconv::cuda {

// What a target gets, without a device.
struct Choice {
  const Solver* solver = nullptr;
  std::vector<Schedule> schedules;
  std::vector<plan::PassedOver> passed_over;
};
// The first solver of the table that serves the problem, or the one named. Throws Error(unsupported | usage).
[[nodiscard]] Choice choose_solver(const Problem& problem, const Target& target, std::string_view solver = {});

// The index of the schedule with the least predicted time for the workload.
[[nodiscard]] std::size_t fastest(const Solver& solver, const std::vector<Schedule>& schedules,
                                  const Workload& workload, const Target& target);

// Whether both read one image of the packed weights.
[[nodiscard]] bool same_image(const Solver& solver, const Problem& problem, const Schedule& a, const Schedule& b);

[[nodiscard]] std::string print(const Schedule& schedule);

class Plan {
 public:
  // Chooses the first solver of the table that serves the layer's problem on the device and compiles its schedules.
  // `solver`: a name of the table, to force it; empty chooses. Throws Error(no_device | unsupported).
  Plan(const Layer& layer, int device, std::string_view solver = {});
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  [[nodiscard]] const Problem& problem() const;
  [[nodiscard]] const Target& target() const;
  [[nodiscard]] const Solver& solver() const;
  [[nodiscard]] const std::vector<plan::PassedOver>& passed_over() const;
  [[nodiscard]] std::int64_t packed_bytes() const;
  [[nodiscard]] std::string explain(const Extent& extent) const;

  // Asynchronous on the stream; allocates, compiles and synchronises nothing. Safe from many threads at once.
  void pack(const Pack& call, Stream stream) const;
  void run(const Call& call, Stream stream) const;  // sizes are checked; an empty batch launches nothing

  // What `run` chooses among, each compiled: for checks and timings of one of them.
  struct Compiled {
    Schedule schedule;
    int registers = 0;
    int spill_bytes = 0;
    bool cached = false;
  };
  [[nodiscard]] std::vector<Compiled> compiled() const;
  [[nodiscard]] std::size_t choose(const Extent& extent) const;  // the index that `run` takes
  void run(std::size_t index, const Call& call, Stream stream) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tconv::cuda
