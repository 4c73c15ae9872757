// The pictures of the HTML page, as inline SVG. Colours come from the page's style sheet by class.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "report/facts.hpp"

namespace tconv::report {

// Useful flop per byte that must move against useful flop/s, both logarithmic. Ceilings: DRAM and matrix
// unit as achieved (they make up the limit), FFMA at its peak. A current kernel timed on another machine
// is left out.
[[nodiscard]] std::string roofline_svg(const Facts& facts);

// The part of the phase picture that fits: some positions of some residues, with some of their taps.
struct PhaseWindow {
  std::int64_t first_position = 0;
  std::int64_t positions = 0;
  std::int64_t residues = 0;  // 0 .. residues-1
  std::int64_t taps = 0;      // of each residue, at most
  bool all_residues = true;
  bool all_taps = true;
  std::vector<std::int64_t> inputs;  // the indices drawn, rising; some may lie outside the input
};
[[nodiscard]] PhaseWindow phase_window(const Workload& workload);

// Which tap feeds which output. Every tap is one <line class="tap ..."> with data-k, data-x and data-y.
[[nodiscard]] std::string phases_svg(const Workload& workload);

}  // namespace tconv::report
