#include "verify/harness.hpp"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "embedded/harness_py.hpp"
#include "util/error.hpp"
#include "util/files.hpp"
#include "util/text.hpp"
#include "verify/number.hpp"

namespace tconv::verify {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds kStartTimeout{180};  // importing torch from a cold disk
constexpr std::size_t kMaxTensorBytes = std::size_t{1} << 32;

std::string_view torch_dtype(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::f32:
    case Arithmetic::tf32:
      return "float32";
    case Arithmetic::f16:
      return "float16";
    case Arithmetic::bf16:
      return "bfloat16";
    case Arithmetic::f64:
      return "float64";
    case Arithmetic::i32:
      return "int32";
  }
  throw Error(Exit::defect, "harness", "an arithmetic without a dtype", "");
}

Error missing(std::string_view what) {
  return Error(Exit::no_device, "verify", printable(what, 400),
               "pip install torch==2.13.0 triton==3.6.0 numpy, or name another Python in TCONV_PYTHON");
}

void write_tensor(const std::filesystem::path& path, std::span<const double> values, Arithmetic arithmetic) {
  const std::string bytes = encode(values, arithmetic);
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size())).flush();
  if (!file) throw Error(Exit::no_device, path.string(), "cannot be written", "");
}

}  // namespace

std::string_view name(Device device) noexcept { return device == Device::interpreter ? "interpreter" : "cuda"; }

Harness::Harness(std::filesystem::path answer, Device device, std::chrono::seconds timeout)
    : answer_(std::move(answer)), device_(device), timeout_(timeout) {}

Harness::~Harness() { stop(); }

void Harness::stop() {
  child_.reset();
  std::error_code ignored;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  folder_.clear();
}

void Harness::start() {
  if (child_) return;
  const std::string python = find_python();
  if (python.empty()) throw missing("there is no Python");
  json hello;
  try {
    // One thread of linear algebra for each child: the children themselves are the parallelism.
    child_ = std::make_unique<Child>(
        std::vector<std::string>{python, "-c", std::string(embedded::harness_py), answer_.string(),
                                 std::string(name(device_))},
        std::vector<std::pair<std::string, std::string>>{{"OMP_NUM_THREADS", "1"}, {"OPENBLAS_NUM_THREADS", "1"}});
    hello = json::parse(child_->read_line(kStartTimeout));
    if (hello.contains("missing")) throw missing(hello["missing"].get<std::string>() + " (" + python + ")");
    folder_ = hello.at("folder").get<std::string>();
    versions_ =
        fmt::format("{}, torch {}, triton {}", printable(hello.at("device").get<std::string>()),
                    printable(hello.at("torch").get<std::string>()), printable(hello.at("triton").get<std::string>()));
  } catch (const json::exception&) {
    child_.reset();
    throw missing(python + " does not behave like Python");
  } catch (const Error& error) {
    child_.reset();
    throw error.rule().empty() ? missing(error.what()) : error;
  }
}

Outcome Harness::run(const Case& c, const Interface& interface, const Tensors& tensors) {
  start();
  const Problem& p = c.workload.problem;
  const Extent& e = c.workload.extent;
  write_tensor(folder_ / "x", tensors.x, p.arithmetic);
  write_tensor(folder_ / "w", tensors.w, p.arithmetic);
  write_tensor(folder_ / "b", tensors.bias, p.arithmetic);

  json arguments = interface.arguments(p);
  if (interface.bias.free()) arguments[interface.bias.argument] = p.bias;
  const json request = {
      {"arguments", arguments},
      {"dtype", torch_dtype(p.arithmetic)},
      {"tf32", p.arithmetic == Arithmetic::tf32},
      {"x_shape", {e.batch, p.c_in, e.length}},
      {"w_shape", {p.c_in, p.c_out / p.groups, p.kernel}},
      {"b_shape", p.bias ? json::array({p.c_out}) : json(nullptr)},
      {"out_shape", {e.batch, p.c_out, out_length(p, e.length)}},
      {"layout", name(c.layout)},
      {"config", c.config},
      {"repeat", c.repeat},
      {"seed", c.seed},
  };
  const auto started = std::chrono::steady_clock::now();
  try {
    child_->write_line(request.dump());
    const json answer = json::parse(child_->read_line(timeout_));
    if (!answer.contains("kind")) return {{}, read_file(folder_ / "y", kMaxTensorBytes)};
    Fault fault{printable(answer.at("kind").get<std::string>()),
                printable(answer.at("detail").get<std::string>(), 500)};
    if (device_ == Device::cuda && fault.kind == "raises") stop();  // the child leaves after a device error
    return {std::move(fault), {}};
  } catch (const Error& error) {
    const bool late = std::chrono::steady_clock::now() - started >= timeout_;
    stop();
    return {Fault{late ? "does not end" : "crashes", printable(error.what(), 500)}, {}};
  } catch (const json::exception&) {
    stop();
    return {Fault{"crashes", "the answer broke the harness's protocol"}, {}};
  }
}

}  // namespace tconv::verify
