// One function a verb: adds its subcommand to the application and, when that subcommand is the one
// called, leaves what to do in `action`.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "util/error.hpp"

namespace tconv::tool {

using Action = std::function<Exit()>;

void add_bench(CLI::App& app, Action& action);
void add_check(CLI::App& app, Action& action);
void add_compile(CLI::App& app, Action& action);
void add_optimize(CLI::App& app, Action& action);
void add_plan(CLI::App& app, Action& action);
void add_run(CLI::App& app, Action& action);
void add_verify(CLI::App& app, Action& action);

}  // namespace tconv::tool
