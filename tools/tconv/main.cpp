// The command line: one verb a file. Results go to standard output, messages to standard error.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "util/error.hpp"
#include "util/text.hpp"
#include "verbs.hpp"

namespace {

constexpr const char* kDescription = R"(Transposed 1-D convolution at the speed of the hardware.

Examples:
  tconv optimize request.txt --out answer        a faster kernel and the evidence, into answer/
  tconv optimize request.txt --target h200       the same for another GPU
  tconv plan @kb79 --target rtx4090              limit, schedule and predicted time of one layer
  tconv plan b1_i512_o256_l862_k16_s8_p4_tf32 --target a100
  tconv verify answer/answer.py --cases 200      runs the answer against a float64 reference
  tconv bench @hifigan_v1_up0 --device cpu       time of one layer on the CPU, and how far from the limit
  tconv run i4_o8_k4_s2_p1 --x x.npy --w w.npy --out y.npy

Exit codes: 0 done, 1 a check failed, 2 malformed input, 3 unsupported problem, 4 a device or tool is
absent, 70 a defect of tconv.)";

// Every message is one line, whatever a user's file name or text put into it.
int complain(const std::string& message, tconv::Exit exit) {
  std::fprintf(stderr, "tconv: %s\n", tconv::printable(message, 2000).c_str());
  return static_cast<int>(exit);
}

int run(int argc, char** argv) {
  CLI::App app{kDescription, "tconv"};
  app.set_version_flag("--version", "tconv " TCONV_VERSION);
  app.require_subcommand(1);
  tconv::tool::Action action;
  tconv::tool::add_optimize(app, action);
  tconv::tool::add_plan(app, action);
  tconv::tool::add_verify(app, action);
  tconv::tool::add_compile(app, action);
  tconv::tool::add_check(app, action);
  tconv::tool::add_bench(app, action);
  tconv::tool::add_run(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  } catch (const CLI::ParseError& error) {
    return complain(std::string(error.what()) + " (tconv --help shows the verbs and their options)",
                    tconv::Exit::usage);
  }
  return static_cast<int>(action());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const tconv::Error& error) {
    return complain(error.what(), error.exit());
  } catch (const std::exception& error) {
    return complain(std::string("this is a defect of tconv: ") + error.what(), tconv::Exit::defect);
  }
}
