"""scripts/check_includes accepts the tree and refuses planted violations."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def check(root):
    return subprocess.run([sys.executable, ROOT / "scripts/check_includes", root], capture_output=True, text=True)


class CheckIncludes(unittest.TestCase):
    def test_the_tree_is_clean(self):
        result = check(ROOT)
        self.assertEqual(result.returncode, 0, result.stdout)

    def planted(self, path, line):
        with tempfile.TemporaryDirectory() as folder:
            for room in ("src/util", "tools/tconv"):
                (pathlib.Path(folder) / room).mkdir(parents=True)
            file = pathlib.Path(folder) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"#pragma once\n\n{line}\n")
            return check(folder)

    def test_a_room_may_include_itself_and_those_before(self):
        for line in ('#include "plan/plan.hpp"', '#include "util/error.hpp"', "#include <report/report.hpp>"):
            self.assertEqual(self.planted("src/plan/plan.cpp", line).returncode, 0, line)

    def test_a_backward_include_is_named_with_its_line(self):
        result = self.planted("src/problem/problem.hpp", '#  include "report/report.hpp"')
        self.assertEqual(result.returncode, 1)
        self.assertIn("src/problem/problem.hpp:3: problem includes report", result.stdout)

    def test_a_room_that_is_not_in_the_order_is_refused(self):
        self.assertEqual(self.planted("src/misc/misc.hpp", '#include "util/error.hpp"').returncode, 1)
        self.assertEqual(self.planted("src/util/files.cpp", '#include "misc/misc.hpp"').returncode, 1)

    def test_kernels_include_their_siblings_by_bare_name_alone(self):
        self.assertEqual(self.planted("kernels/a.cuh", '#include "a.cuh"').returncode, 0)
        for line in ('#include "absent.h"', '#include "kernels/a.cuh"', '#include "util/error.hpp"'):
            result = self.planted("kernels/a.cuh", line)
            self.assertEqual(result.returncode, 1, line)
            self.assertIn("kernels/a.cuh:3: ", result.stdout)

    def test_kernels_are_for_the_rooms_after_them(self):
        self.assertEqual(self.planted("src/cuda/plan.hpp", '#include "kernels/call.h"').returncode, 0)
        self.assertEqual(self.planted("src/plan/plan.hpp", '#include "kernels/call.h"').returncode, 1)


if __name__ == "__main__":
    unittest.main()
