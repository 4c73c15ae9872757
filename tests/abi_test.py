"""What a user of the library sees: headers that compile alone, the symbols, the libraries it asks for."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = pathlib.Path(os.environ["TCONV_BUILD"]) / "libtconv.so"
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wshadow"]
HEADERS = {"tconv.h": ["c11", "c17", "c++17", "c++20"], "tconv.hpp": ["c++17", "c++20", "c++2b"]}


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


class Abi(unittest.TestCase):
    def test_every_header_compiles_alone(self):
        found = {path.name for path in (ROOT / "include/tconv").iterdir()}
        self.assertEqual(found, set(HEADERS))
        compilers = [one for one in ("gcc", "clang") if shutil.which(one)]
        if not compilers:
            self.skipTest("neither gcc nor clang is on PATH")
        for compiler in compilers:
            for header, standards in HEADERS.items():
                for standard in standards:
                    with self.subTest(compiler=compiler, header=header, standard=standard), tempfile.TemporaryDirectory() as folder:
                        source = pathlib.Path(folder) / ("use.cpp" if "++" in standard else "use.c")
                        source.write_text(f"#include <tconv/{header}>\n", encoding="utf-8")
                        result = subprocess.run(
                            [compiler, f"-std={standard}", *WARNINGS, "-fsyntax-only", f"-I{ROOT / 'include'}", source],
                            capture_output=True, text=True, timeout=60)
                        self.assertEqual((result.returncode, result.stderr), (0, ""))

    def test_the_symbols_are_those_of_the_list(self):
        """A symbol that goes or changes its meaning breaks those who have it: a new minor version before 1.0."""
        shown = [line.split()[0] for line in output("nm", "-D", "--defined-only", "--format=posix", LIBRARY).splitlines()]
        listed = (ROOT / "tests/golden/exports.txt").read_text(encoding="utf-8").splitlines()
        self.assertEqual(sorted(shown), sorted(listed))
        declared = re.findall(r"\b(tconv_\w+)\(", re.sub(r"/\*.*?\*/", "", (ROOT / "include/tconv/tconv.h").read_text(), flags=re.S))
        self.assertEqual(sorted(set(declared)), sorted(listed))

    def test_nothing_of_cuda_is_linked(self):
        needed = re.findall(r"\(NEEDED\).*\[(.+)\]", output("readelf", "-d", LIBRARY))
        self.assertIn("libc.so.6", needed)
        self.assertEqual([one for one in needed if re.match(r"lib(cu|nv)", one)], [])


if __name__ == "__main__":
    unittest.main()
