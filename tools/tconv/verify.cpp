// tconv verify FILE: runs an answer on random problems and compares it with the float64 reference.
#include "verify/verify.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "problem/grammar.hpp"
#include "request/request.hpp"
#include "shared.hpp"
#include "util/files.hpp"
#include "util/text.hpp"
#include "verbs.hpp"

namespace tconv::tool {
namespace {

constexpr std::size_t kMaxAnswerBytes = 1u << 20;

struct Options {
  std::string file;
  std::string word;
  std::string device = "interpreter";
  std::vector<std::string> arithmetics;
  std::int64_t cases = 200;
  std::uint64_t seed = 0;
  std::int64_t timeout = 120;
  bool run_current = false;
  bool json = false;
  bool cases_given = false;
  bool seed_given = false;
};

// A folder that only this user can read, gone when this goes.
class PrivateFolder {
 public:
  PrivateFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "tconv-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      throw Error(Exit::no_device, name, std::string("cannot be made: ") + std::strerror(errno), "");
    }
    path_ = name;
  }
  ~PrivateFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

request::Code read_answer(const std::string& file) {
  const std::string source = read_file(file, kMaxAnswerBytes);
  if (source.find("[CURRENT CODE]") != std::string::npos) {
    throw Error(Exit::usage, file, "is a request, not an answer",
                "--run-current verifies the code inside a request, which executes it");
  }
  return request::read_code(source, file, 1, request::Purpose::interface);
}

void show_progress(std::int64_t done, std::int64_t failed, std::int64_t cases) {
  std::fprintf(stderr, "\r%lld of %lld cases, %lld failed%s", static_cast<long long>(done),
               static_cast<long long>(cases), static_cast<long long>(failed), done == cases ? "\n" : "");
}

Exit run(const Options& given) {
  std::optional<PrivateFolder> folder;
  verify::Options options;
  request::Code code;
  if (given.run_current) {
    code = request::read_request(given.file).code;
    folder.emplace();
    write_files(folder->path(), {{"current.py", code.source}});
    options.answer = folder->path() / "current.py";
    options.max_stride = 64;  // tests of a tap in floating point fail at some strides above 9 only
  } else {
    code = read_answer(given.file);
    options.answer = std::filesystem::absolute(given.file);
  }
  options.device = given.device == "cuda" ? verify::Device::cuda : verify::Device::interpreter;
  if (!given.word.empty()) options.only = parse_workload(given.word);
  // A reproducer line names one case and its seed; only that case is due.
  options.cases = options.only && given.seed_given && !given.cases_given ? 1 : given.cases;
  options.seed = given.seed_given ? given.seed : std::random_device{}();
  for (const std::string& name : given.arithmetics) options.arithmetics.push_back(*arithmetic_named(name));
  options.timeout = std::chrono::seconds(given.timeout);
  options.jobs = options.device == verify::Device::cuda
                     ? 1
                     : static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 8u));
  if (::isatty(STDERR_FILENO) != 0) {
    options.progress = [&](std::int64_t done, std::int64_t failed) { show_progress(done, failed, options.cases); };
  }

  const std::string file = printable(given.file, 400) + (given.run_current ? " --run-current" : "");
  const verify::Verification result = verify::verify(options, verify::read_interface(code));
  print_result(given.json ? verify::json(result, options, file) : verify::text(result, options, file));
  return result.failed == 0 ? Exit::ok : Exit::check_failed;
}

}  // namespace

void add_verify(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("verify", "Run an answer on random problems against a float64 reference");
  verb->add_option("FILE", options->file, "The answer: a Python file with a class ModelNew. It is executed")
      ->required();
  CLI::Option* cases = verb->add_option("--cases", options->cases, "How many random problems")
                           ->check(CLI::Range(1, 1000000))
                           ->capture_default_str();
  CLI::Option* seed = verb->add_option("--seed", options->seed, "Case i has seed N + i; random when not given");
  verb->add_option("--case", options->word, "This workload instead of random ones");
  verb->add_option("--device", options->device, "Triton's interpreter on the CPU, or a GPU")
      ->check(CLI::IsMember({"interpreter", "cuda"}))
      ->capture_default_str();
  verb->add_option("--dtype", options->arithmetics, "Only these arithmetics")
      ->delimiter(',')
      ->check(CLI::IsMember({"f32", "tf32", "f16", "bf16", "f64", "i32"}));
  verb->add_option("--timeout", options->timeout, "Seconds a case may take")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  verb->add_flag("--run-current", options->run_current,
                 "FILE is a request: verify the current code inside it. This executes that code");
  verb->add_flag("--json", options->json, "JSON on standard output");
  verb->callback([options, cases, seed, &action] {
    options->cases_given = cases->count() > 0;
    options->seed_given = seed->count() > 0;
    action = [options] { return run(*options); };
  });
}

}  // namespace tconv::tool
