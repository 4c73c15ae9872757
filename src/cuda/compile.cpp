#include "cuda/compile.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "embedded/kernels.hpp"
#include "util/cache.hpp"
#include "util/error.hpp"
#include "util/sha256.hpp"
#include "util/subprocess.hpp"

namespace tconv::cuda {
namespace {

using Program = struct _nvrtcProgram*;
constexpr int kInvalidOption = 5;   // NVRTC_ERROR_INVALID_OPTION
constexpr int kBuiltinFailure = 7;  // NVRTC_ERROR_BUILTIN_OPERATION_FAILURE
constexpr std::string_view kEntry = "run";

struct Version {
  int major = 0;
  int minor = 0;
  auto operator<=>(const Version&) const = default;
};

struct Nvrtc {
  const char* (*error_string)(int);
  int (*version)(int* major, int* minor);
  int (*create)(Program*, const char* source, const char* name, int headers, const char* const* texts,
                const char* const* names);
  int (*destroy)(Program*);
  int (*compile)(Program, int options, const char* const* option);
  int (*cubin_size)(Program, std::size_t*);
  int (*cubin)(Program, char*);
  int (*log_size)(Program, std::size_t*);
  int (*log)(Program, char*);
  Version number;
  std::string path;  // as the loader found it; empty where it does not say
};

[[noreturn]] void absent(const std::string& what) {
  throw Error(Exit::no_device, "nvrtc", what, "kernels are compiled by NVRTC 12 or 13");
}

template <typename Entry>
void resolve(void* library, Entry& entry, const char* symbol) {
  void* const address = dlsym(library, symbol);
  if (address == nullptr) absent(fmt::format("the library has no {}", symbol));
  entry = reinterpret_cast<Entry>(address);
}

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// The libraries that the wheels of NVRTC left in the Python that runs answers: a line each.
std::vector<std::string> libraries_of_python() {
  const std::string python = find_python();
  if (python.empty()) return {};
  static constexpr const char* kScript =
      "import glob, os\n"
      "try:\n"
      "    import nvidia\n"
      "    roots = list(nvidia.__path__)\n"
      "except ImportError:\n"
      "    roots = []\n"
      "for root in roots:\n"
      "    for folder in ('cu13', 'cuda_nvrtc'):\n"
      "        for path in sorted(glob.glob(os.path.join(root, folder, 'lib', 'libnvrtc.so.*'))):\n"
      "            print(path)\n";
  std::vector<std::string> paths;
  try {
    const ProcessResult result = run_process({python, "-c", kScript}, "", std::chrono::seconds(20));
    std::string_view rest = result.exit_code == 0 ? std::string_view(result.out) : std::string_view();
    while (!rest.empty()) {
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      if (end > 0) paths.emplace_back(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  } catch (const Error&) {
    // A Python that does not start has no NVRTC either.
  }
  return paths;
}

// Never closed: what it compiles may outlive any owner we could give it.
void* open_library() {
  const auto open = [](const std::string& name) { return dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL); };
  if (const std::string named = environment("TCONV_NVRTC"); !named.empty()) {
    if (void* const library = open(named)) return library;
    const char* const why = dlerror();
    absent(fmt::format("TCONV_NVRTC cannot be opened: {}", why != nullptr ? why : named));
  }
  static constexpr std::array kNames{"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"};
  for (const char* name : kNames) {
    if (void* const library = open(name)) return library;
  }
  std::vector<std::string> folders;
  if (const std::string home = environment("CUDA_HOME"); !home.empty()) folders.push_back(home + "/lib64");
  folders.emplace_back("/usr/local/cuda/lib64");
  for (const std::string& folder : folders) {
    for (const char* name : kNames) {
      if (void* const library = open(folder + "/" + name)) return library;
    }
  }
  for (const std::string& path : libraries_of_python()) {
    if (void* const library = open(path)) return library;
  }
  absent(
      fmt::format("found no libnvrtc.so.13, .so.12 or .so by the loader, in {} or in Python's nvidia packages; "
                  "TCONV_NVRTC may name one",
                  fmt::join(folders, ", ")));
}

// NVRTC opens a second library by its bare name when it first compiles, which the loader does not find where both lie
// in a folder of their own, as in a wheel. One that is already open under that name is taken.
void open_builtins(const Nvrtc& n) {
  if (n.path.empty()) return;
  const std::string folder = std::filesystem::path(n.path).parent_path();
  // Where it is absent here, the loader may still find it; else NVRTC says so.
  (void)dlopen(fmt::format("{}/libnvrtc-builtins.so.{}.{}", folder, n.number.major, n.number.minor).c_str(),
               RTLD_NOW | RTLD_LOCAL);
}

Nvrtc open_nvrtc() {
  void* const library = open_library();
  Nvrtc n{};
  resolve(library, n.error_string, "nvrtcGetErrorString");
  resolve(library, n.version, "nvrtcVersion");
  resolve(library, n.create, "nvrtcCreateProgram");
  resolve(library, n.destroy, "nvrtcDestroyProgram");
  resolve(library, n.compile, "nvrtcCompileProgram");
  resolve(library, n.cubin_size, "nvrtcGetCUBINSize");
  resolve(library, n.cubin, "nvrtcGetCUBIN");
  resolve(library, n.log_size, "nvrtcGetProgramLogSize");
  resolve(library, n.log, "nvrtcGetProgramLog");
  if (const int result = n.version(&n.number.major, &n.number.minor); result != 0) {
    absent(fmt::format("nvrtcVersion failed: {}", n.error_string(result)));
  }
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(n.version), &info) != 0 && info.dli_fname != nullptr)
    n.path = info.dli_fname;
  open_builtins(n);
  return n;
}

const Nvrtc& nvrtc() {
  static const Nvrtc opened = open_nvrtc();
  return opened;
}

void require(int result, std::string_view call) {
  if (result == 0) return;
  throw Error(Exit::defect, "nvrtc", fmt::format("{} failed: {}", call, nvrtc().error_string(result)),
              "NVRTC's own word");
}

// The whole options of a compilation; part of the cache's key.
std::vector<std::string> options_for(std::string_view architecture, Version version) {
  std::vector<std::string> options{fmt::format("--gpu-architecture={}", architecture), "--std=c++17", "-default-device",
                                   "--fmad=true", "--ptxas-options=-v"};
  // From 12.9 on NVRTC has a cache of its own beside the driver, and what comes from there comes without its log.
  if (version >= Version{12, 9}) options.emplace_back("--no-cache");
  return options;
}

std::string log_of(Program program) {
  std::size_t size = 0;
  require(nvrtc().log_size(program, &size), "nvrtcGetProgramLogSize");
  std::string log(size, '\0');
  require(nvrtc().log(program, log.data()), "nvrtcGetProgramLog");
  while (!log.empty() && (log.back() == '\0' || log.back() == '\n')) log.pop_back();
  return log;
}

// A message is one line.
std::string on_one_line(std::string_view log) {
  std::string line;
  for (const char c : log) {
    if (c == '\n') {
      line += " | ";
    } else {
      line += c;
    }
  }
  return line;
}

// The number that stands before `unit` in `text`; 0 where ptxas does not mention it, as it does for none.
int number_before(std::string_view text, std::string_view unit) {
  const std::size_t at = text.find(unit);
  if (at == std::string_view::npos) return 0;
  std::size_t from = at;
  while (from > 0 && text[from - 1] >= '0' && text[from - 1] <= '9') --from;
  int number = 0;
  std::from_chars(text.data() + from, text.data() + at, number);
  return number;
}

// What ptxas says of the entry: "Function properties for run", a line of stack and spills, a line of what it uses.
void read_usage(std::string_view log, Cubin& cubin) {
  const std::string heading = fmt::format("Compiling entry function '{}' for", kEntry);
  const std::size_t from = log.find(heading);
  if (from != std::string_view::npos) {
    std::string_view part = log.substr(from + heading.size());
    part = part.substr(0, part.find("Compiling entry function"));
    // Functions that were not inlined have properties of their own, which follow; the entry's come first.
    if (const std::size_t own = part.find(fmt::format("Function properties for {}\n", kEntry));
        own != std::string_view::npos) {
      part = part.substr(own);
      cubin.stack_bytes = number_before(part, " bytes stack frame");
      cubin.spill_bytes = number_before(part, " bytes spill stores") + number_before(part, " bytes spill loads");
      const std::size_t used = part.find("Used ");
      if (used != std::string_view::npos) {
        const std::string_view line = part.substr(used, part.find('\n', used) - used);
        cubin.registers = number_before(line, " registers");
        cubin.static_shared_bytes = number_before(line, " bytes smem");
      }
    }
  }
  cubin.serialized = log.find("wgmma.mma_async instructions are serialized") != std::string_view::npos ? 1 : 0;
  if (cubin.registers == 0) {
    throw Error(Exit::defect, "nvrtc", "the log names no registers of the entry: " + on_one_line(log),
                "a source defines the entry `run`");
  }
}

Cubin compile_now(const std::string& source, std::string_view architecture) {
  const Nvrtc& n = nvrtc();
  std::vector<std::string> texts;
  std::vector<std::string> names;
  std::vector<const char*> text_pointers;
  std::vector<const char*> name_pointers;
  for (const auto& [name, text] : embedded::kernels) {
    names.emplace_back(name);
    texts.emplace_back(text);
  }
  for (const std::string& text : texts) text_pointers.push_back(text.c_str());
  for (const std::string& name : names) name_pointers.push_back(name.c_str());

  struct Destroy {
    const Nvrtc& n;
    Program program = nullptr;
    ~Destroy() { n.destroy(&program); }
  };
  Program made = nullptr;
  require(n.create(&made, source.c_str(), "tconv.cu", static_cast<int>(texts.size()), text_pointers.data(),
                   name_pointers.data()),
          "nvrtcCreateProgram");
  const Destroy guard{n, made};

  const std::vector<std::string> options = options_for(architecture, n.number);
  std::vector<const char*> option_pointers;
  for (const std::string& option : options) option_pointers.push_back(option.c_str());
  const int result = n.compile(made, static_cast<int>(options.size()), option_pointers.data());
  const std::string log = log_of(made);
  if (result == kInvalidOption)
    absent(fmt::format("NVRTC {}.{} cannot compile for {}", n.number.major, n.number.minor, architecture));
  if (result == kBuiltinFailure) absent(on_one_line(log));
  if (result != 0) {
    throw Error(Exit::defect, fmt::format("nvrtc {}", architecture),
                fmt::format("{}: {}", n.error_string(result), on_one_line(log)), "the source must compile");
  }
  Cubin cubin;
  std::size_t size = 0;
  require(n.cubin_size(made, &size), "nvrtcGetCUBINSize");
  cubin.bytes.resize(size);
  require(n.cubin(made, cubin.bytes.data()), "nvrtcGetCUBIN");
  read_usage(log, cubin);
  return cubin;
}

// What is cached: a line of numbers, then the cubin.
std::string pack(const Cubin& cubin) {
  return fmt::format("{} {} {} {} {}\n", cubin.registers, cubin.spill_bytes, cubin.stack_bytes,
                     cubin.static_shared_bytes, cubin.serialized) +
         cubin.bytes;
}

std::optional<Cubin> unpack(const std::string& payload) {
  Cubin cubin;
  const char* at = payload.data();
  const char* const end = at + payload.size();
  for (int* const field :
       {&cubin.registers, &cubin.spill_bytes, &cubin.stack_bytes, &cubin.static_shared_bytes, &cubin.serialized}) {
    const auto [next, error] = std::from_chars(at, end, *field);
    if (error != std::errc() || next == end) return std::nullopt;
    at = next + 1;
  }
  cubin.bytes.assign(at, end);
  cubin.cached = true;
  return cubin;
}

// Everything that decides the bytes of the cubin.
std::string key_of(std::string_view source, std::string_view architecture, Version version) {
  static const std::string headers = [] {
    std::string all;
    for (const auto& [name, text] : embedded::kernels) all += cache_key({name, text});
    return hex(sha256(all));
  }();
  std::string options;
  for (const std::string& option : options_for(architecture, version)) options += cache_key({option});
  return cache_key(
      {"2", TCONV_VERSION, fmt::format("{}.{}", version.major, version.minor), architecture, options, headers, source});
}

// To open NVRTC takes tens of milliseconds, and twice as many where Python has to say where it is. Of what is cached
// only the version is needed, and the cache keeps it for as long as the library's file stays as it was.
std::string version_key() {
  std::string places;  // what decides which one is found
  for (const char* name : {"TCONV_NVRTC", "CUDA_HOME", "LD_LIBRARY_PATH", "TCONV_PYTHON", "PATH"})
    places += cache_key({environment(name)});
  return cache_key({"nvrtc", places});
}

std::string version_entry(Version version, const std::string& path) {
  std::error_code failed;
  const auto size = std::filesystem::file_size(path, failed);
  if (failed) return "";
  const auto time = std::filesystem::last_write_time(path, failed);
  if (failed) return "";
  return fmt::format("{} {} {} {} {}", version.major, version.minor, size, time.time_since_epoch().count(), path);
}

std::optional<Version> kept_version(const Cache& cache) {
  const std::optional<std::string> entry = cache.find(version_key());
  if (!entry) return std::nullopt;
  Version version;
  const char* const end = entry->data() + entry->size();
  const auto major = std::from_chars(entry->data(), end, version.major);
  if (major.ec != std::errc() || major.ptr == end) return std::nullopt;
  if (std::from_chars(major.ptr + 1, end, version.minor).ec != std::errc()) return std::nullopt;
  const std::size_t path = entry->find('/');
  if (path == std::string::npos || version_entry(version, entry->substr(path)) != *entry) return std::nullopt;
  return version;
}

void keep_version(const Cache& cache, const Nvrtc& n) {
  if (const std::string entry = version_entry(n.number, n.path); !entry.empty()) cache.store(version_key(), entry);
}

std::optional<Cubin> find_cubin(const Cache& cache, const std::string& key) {
  const std::optional<std::string> kept = cache.find(key);
  return kept ? unpack(*kept) : std::nullopt;
}

// One thread of this process at a time for a key.
class Flight {
 public:
  explicit Flight(std::string key) : key_(std::move(key)) {
    {
      const std::lock_guard guard(table_mutex());
      std::shared_ptr<std::mutex>& entry = table()[key_];
      if (!entry) entry = std::make_shared<std::mutex>();
      mutex_ = entry;
    }
    mutex_->lock();
  }
  ~Flight() {
    mutex_->unlock();
    const std::lock_guard guard(table_mutex());
    // The table's and ours: nobody waits, and nobody can begin to while the table is locked.
    if (mutex_.use_count() == 2) table().erase(key_);
  }
  Flight(const Flight&) = delete;
  Flight& operator=(const Flight&) = delete;

 private:
  static std::mutex& table_mutex() {
    static std::mutex mutex;
    return mutex;
  }
  static std::map<std::string, std::shared_ptr<std::mutex>>& table() {
    static std::map<std::string, std::shared_ptr<std::mutex>> all;
    return all;
  }

  std::string key_;
  std::shared_ptr<std::mutex> mutex_;
};

}  // namespace

std::string architecture_of(int sm) { return sm == 90 ? "sm_90a" : fmt::format("sm_{}", sm); }

Cubin compile(std::string_view source, std::string_view architecture) {
  const Cache cache(Cache::default_root());
  const std::optional<Version> kept = kept_version(cache);
  if (kept) {
    if (auto cubin = find_cubin(cache, key_of(source, architecture, *kept))) return *std::move(cubin);
  }
  const Nvrtc& n = nvrtc();
  if (kept != n.number) keep_version(cache, n);
  const std::string key = key_of(source, architecture, n.number);
  const Flight flight(key);  // threads of this process
  if (auto cubin = find_cubin(cache, key)) return *std::move(cubin);
  // Other processes; one that holds the lock for longer is not waited for, as both would store the same.
  const File lock = cache.lock(key, std::chrono::seconds(10));
  if (auto cubin = find_cubin(cache, key)) return *std::move(cubin);
  Cubin cubin = compile_now(std::string(source), architecture);
  cache.store(key, pack(cubin));
  return cubin;
}

}  // namespace tconv::cuda
