#include "util/subprocess.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "util/error.hpp"

extern char** environ;  // NOLINT(readability-redundant-declaration): POSIX leaves it to the program

namespace tconv {
namespace {

using Clock = std::chrono::steady_clock;
using Environment = std::vector<std::pair<std::string, std::string>>;

constexpr std::size_t kMaxLine = 16u << 20;    // of a child's answer
constexpr std::size_t kErrorTail = 16u << 10;  // of a child's standard error, kept for messages
constexpr std::chrono::seconds kWriteTimeout{60};
constexpr std::chrono::milliseconds kGrace{2000};  // for a child to leave after its input is closed

std::string errno_text(int code) { return std::strerror(code); }

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { reset(); }

  void reset() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool open() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

void set_nonblocking(int fd) { ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK); }

// A running child and our ends of its three streams. Its input is a socket, not a pipe: send() can be
// told not to raise SIGPIPE, write() cannot.
struct Spawned {
  pid_t pid = -1;
  Fd input, output, error;

  Spawned(const std::vector<std::string>& argv, const Environment& extra) {
    if (argv.empty()) throw Error(Exit::defect, "run", "an empty argument vector", "");
    int sockets[2], out[2], err[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) fail(argv[0], errno);
    Fd child_input(sockets[1]);
    input = Fd(sockets[0]);
    if (::pipe2(out, O_CLOEXEC) != 0) fail(argv[0], errno);
    output = Fd(out[0]);
    Fd child_output(out[1]);
    if (::pipe2(err, O_CLOEXEC) != 0) fail(argv[0], errno);
    error = Fd(err[0]);
    Fd child_error(err[1]);
    for (int fd : {input.get(), output.get(), error.get()}) set_nonblocking(fd);

    std::vector<std::string> variables;
    for (char** entry = environ; *entry != nullptr; ++entry) {
      const std::string_view text(*entry);
      const bool replaced = std::any_of(extra.begin(), extra.end(), [&](const auto& e) {
        return text.size() > e.first.size() && text.starts_with(e.first) && text[e.first.size()] == '=';
      });
      if (!replaced) variables.emplace_back(text);
    }
    for (const auto& [key, value] : extra) variables.push_back(key + "=" + value);

    std::vector<std::string> words(argv);
    auto pointers = [](std::vector<std::string>& strings) {
      std::vector<char*> result;
      for (auto& s : strings) result.push_back(s.data());
      result.push_back(nullptr);
      return result;
    };
    auto args = pointers(words);
    auto env = pointers(variables);

    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, child_input.get(), STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, child_output.get(), STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, child_error.get(), STDERR_FILENO);
    posix_spawnattr_t attributes;
    ::posix_spawnattr_init(&attributes);
    sigset_t defaults, mask;
    ::sigemptyset(&mask);
    ::sigemptyset(&defaults);
    ::sigaddset(&defaults, SIGPIPE);
    ::posix_spawnattr_setsigdefault(&attributes, &defaults);
    ::posix_spawnattr_setsigmask(&attributes, &mask);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    const int code = ::posix_spawnp(&pid, args[0], &actions, &attributes, args.data(), env.data());
    ::posix_spawnattr_destroy(&attributes);
    ::posix_spawn_file_actions_destroy(&actions);
    if (code != 0) {
      pid = -1;
      fail(argv[0], code);
    }
  }

  Spawned(const Spawned&) = delete;
  Spawned& operator=(const Spawned&) = delete;
  ~Spawned() {
    if (pid < 0) return;
    ::kill(pid, SIGKILL);
    wait_until(Clock::time_point::max());
  }

  // Reaps the child; false when it still runs at the deadline.
  bool wait_until(Clock::time_point deadline) {
    auto pause = std::chrono::microseconds(200);
    while (pid >= 0) {
      int status = 0;
      const pid_t got = ::waitpid(pid, &status, WNOHANG);
      if (got == pid) {
        exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        pid = -1;
      } else if (got < 0 && errno != EINTR) {
        pid = -1;  // reaped by someone else (SIGCHLD ignored): nothing is known of its end
      } else if (Clock::now() >= deadline) {
        return false;
      } else {
        std::this_thread::sleep_for(pause);
        pause = std::min(pause * 2, std::chrono::microseconds(20000));
      }
    }
    return true;
  }

  int exit_code = -1;

 private:
  [[noreturn]] static void fail(const std::string& program, int code) {
    throw Error(Exit::no_device, program, "cannot be started: " + errno_text(code), "");
  }
};

// Appends what can be read now; closes the stream at its end.
template <typename Sink>
void drain(Fd& fd, Sink&& sink) {
  std::array<char, 65536> buffer;
  while (fd.open()) {
    const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n > 0) {
      sink(std::string_view(buffer.data(), static_cast<std::size_t>(n)));
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else if (n < 0 && errno == EAGAIN) {
      return;
    } else {
      fd.reset();
    }
  }
}

// Sends what fits now and shortens `rest`; a child that closed its input gets the rest dropped.
void feed(Fd& fd, std::string_view& rest) {
  while (fd.open() && !rest.empty()) {
    const ssize_t n = ::send(fd.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (n >= 0) {
      rest.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno == EAGAIN) {
      return;
    } else if (errno != EINTR) {
      fd.reset();
      rest = {};
    }
  }
}

// Waits until a stream is ready or the deadline passes; false at the deadline.
bool wait_ready(const Spawned& child, bool want_write, Clock::time_point deadline) {
  std::array<pollfd, 3> fds{{{child.output.get(), POLLIN, 0},
                             {child.error.get(), POLLIN, 0},
                             {want_write ? child.input.get() : -1, POLLOUT, 0}}};
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    const int n = ::poll(fds.data(), fds.size(), static_cast<int>(std::min<long long>(left, 1 << 30)));
    if (n > 0) return true;
    if (n < 0 && errno != EINTR) return false;
  }
}

void append_capped(std::string& to, std::string_view text, std::size_t cap) {
  to.append(text.substr(0, cap - std::min(cap, to.size())));
}

void append_tail(std::string& to, std::string_view text) {
  to.append(text);
  if (to.size() > kErrorTail) to.erase(0, to.size() - kErrorTail);
}

bool executable(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored) && ::access(path.c_str(), X_OK) == 0;
}

}  // namespace

ProcessResult run_process(const std::vector<std::string>& argv, std::string_view input,
                          std::chrono::milliseconds timeout, std::size_t max_output) {
  const auto deadline = Clock::now() + timeout;
  Spawned child(argv, {});
  ProcessResult result;
  while (child.output.open() || child.error.open()) {
    feed(child.input, input);
    if (input.empty()) child.input.reset();
    if (!wait_ready(child, child.input.open(), deadline)) {
      result.timed_out = true;
      break;
    }
    drain(child.output, [&](std::string_view text) { append_capped(result.out, text, max_output); });
    drain(child.error, [&](std::string_view text) { append_capped(result.err, text, max_output); });
  }
  if (!result.timed_out) result.timed_out = !child.wait_until(deadline);
  if (result.timed_out) {
    ::kill(child.pid, SIGKILL);
    child.wait_until(Clock::time_point::max());
  }
  result.exit_code = child.exit_code;
  return result;
}

struct Child::State {
  State(const std::vector<std::string>& argv, const Environment& environment)
      : name(argv.empty() ? "" : argv[0]), process(argv, environment) {}

  void drain_both() {
    drain(process.output, [&](std::string_view text) { lines.append(text); });
    drain(process.error, [&](std::string_view text) { append_tail(errors, text); });
  }

  [[noreturn]] void fail(const std::string& what) {
    drain_both();
    throw Error(Exit::check_failed, name, what + (errors.empty() ? "" : ": " + errors), "");
  }

  std::string name;
  Spawned process;
  std::string lines;   // read, not yet handed out
  std::string errors;  // the end of its standard error
};

Child::Child(const std::vector<std::string>& argv, const Environment& environment)
    : state_(new State(argv, environment)) {}

Child::~Child() {
  state_->process.input.reset();
  // Its streams are drained while it leaves, so that a full pipe cannot hold it.
  const auto deadline = Clock::now() + kGrace;
  while ((state_->process.output.open() || state_->process.error.open()) &&
         wait_ready(state_->process, false, deadline)) {
    state_->drain_both();
    state_->lines.clear();
  }
  state_->process.wait_until(deadline);
  delete state_;
}

void Child::write_line(std::string_view line) {
  std::string text(line);
  text += '\n';
  std::string_view rest(text);
  const auto deadline = Clock::now() + kWriteTimeout;
  while (true) {
    feed(state_->process.input, rest);
    if (!state_->process.input.open()) return;  // it died: read_line says so, with its last words
    if (rest.empty()) return;
    if (!wait_ready(state_->process, true, deadline)) state_->fail("does not read its input");
    state_->drain_both();
  }
}

std::string Child::read_line(std::chrono::milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  std::size_t searched = 0;
  while (true) {
    const std::size_t end = state_->lines.find('\n', searched);
    if (end != std::string::npos) {
      std::string line = state_->lines.substr(0, end);
      state_->lines.erase(0, end + 1);
      return line;
    }
    searched = state_->lines.size();
    if (searched > kMaxLine) state_->fail("wrote a line longer than 16 MiB");
    if (!state_->process.output.open()) {
      state_->process.wait_until(Clock::now() + kGrace);
      const int code = state_->process.exit_code;
      state_->fail(code > 128 ? "was killed by signal " + std::to_string(code - 128)
                              : "ended with exit code " + std::to_string(code));
    }
    if (!wait_ready(state_->process, false, deadline)) {
      state_->fail("did not answer within " + std::to_string(timeout.count()) + " ms");
    }
    state_->drain_both();
  }
}

std::string find_python() {
  if (const char* named = std::getenv("TCONV_PYTHON"); named != nullptr && *named != '\0') return named;
  std::error_code failed;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", failed);
  if (!failed) {
    const auto beside = self.parent_path().parent_path() / "venv" / "bin" / "python";
    if (executable(beside)) return beside.string();
  }
  if (const auto here = std::filesystem::current_path(failed) / "build" / "venv" / "bin" / "python";
      !failed && executable(here)) {
    return here.string();
  }
  if (const char* path = std::getenv("PATH"); path != nullptr) {
    std::string_view rest(path);
    while (!rest.empty()) {
      const std::string_view folder = rest.substr(0, rest.find(':'));
      rest.remove_prefix(std::min(rest.size(), folder.size() + 1));
      const auto candidate = std::filesystem::path(folder) / "python3";
      if (!folder.empty() && executable(candidate)) return candidate.string();
    }
  }
  return {};
}

}  // namespace tconv
