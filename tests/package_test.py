"""The library as others take it: installed, moved, from the build tree, by pkg-config, inside another project."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ["TCONV_BUILD"])
VERSION = re.search(r"project\(tconv VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))[1]
MINOR = VERSION.rpartition(".")[0]
CACHE = dict(re.findall(r"^(\w+):\w+=(.*)$", (BUILD / "CMakeCache.txt").read_text(encoding="utf-8"), re.MULTILINE))
# A sanitized library wants programs that are sanitized too.
SAME = [f"-D{name}={CACHE[name]}" for name in
        ("CMAKE_C_COMPILER", "CMAKE_CXX_COMPILER", "CMAKE_C_FLAGS", "CMAKE_CXX_FLAGS")]


def run(*command, **options):
    result = subprocess.run([str(one) for one in command], capture_output=True, text=True, timeout=300, **options)
    if result.returncode != 0:
        raise AssertionError(f"{shlex.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout


def example_sum():
    """What the examples print: the sum of every output of a layer of integers, each tap of each input that lands."""
    c_in, c_out, kernel, stride, padding, length = 512, 256, 16, 8, 4, 100
    total = 0
    for c in range(c_in):
        of_tap = [sum((((c * c_out + o) * kernel + k) % 5 - 1) for o in range(c_out)) for k in range(kernel)]
        for i in range(length):
            x = (c * length + i) % 7 - 2
            total += x * sum(of_tap[k] for k in range(kernel) if 0 <= i * stride - padding + k < length * stride)
    return total


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        run("cmake", "--install", BUILD, "--prefix", cls.folder / "first")
        # What follows uses the tree at another place than it was installed to.
        cls.prefix = cls.folder / "moved"
        (cls.folder / "first").rename(cls.prefix)
        cls.lib = next(cls.prefix.rglob("libtconv.so")).parent

    def build(self, name, source, *options):
        """Configures and builds a project; the folder of its programs."""
        binary = self.folder / name
        run("cmake", "-G", "Ninja", "-S", source, "-B", binary, *SAME, *options)
        run("cmake", "--build", binary)
        return binary

    def expect_sum(self, program, **options):
        self.assertRegex(run(program, **options), rf"^sum {example_sum()}\ntime [\d.]+ ms\n$")

    def test_what_is_installed(self):
        lib = self.lib.relative_to(self.prefix)
        found = {str(one.relative_to(self.prefix)) for one in self.prefix.rglob("*") if not one.is_dir()}
        targets = {name for name in found if re.fullmatch(rf"{lib}/cmake/tconv/tconv-targets-\w+\.cmake", name)}
        self.assertEqual(len(targets), 1)
        self.assertEqual(found - targets, {
            "bin/tconv", "include/tconv/tconv.h", "include/tconv/tconv.hpp",
            f"{lib}/libtconv.so", f"{lib}/libtconv.so.{MINOR}", f"{lib}/libtconv.so.{VERSION}",
            f"{lib}/cmake/tconv/tconv-config.cmake", f"{lib}/cmake/tconv/tconv-config-version.cmake",
            f"{lib}/cmake/tconv/tconv-targets.cmake", f"{lib}/pkgconfig/tconv.pc"})
        self.assertIn(f"[libtconv.so.{MINOR}]", run("readelf", "-d", self.lib / "libtconv.so"))
        self.assertEqual(run(self.prefix / "bin/tconv", "--version").split()[-1], VERSION)

    def test_the_packages_ask_for_nothing_else(self):
        """Neither this machine's paths nor the libraries that libtconv.so is built from."""
        for file in [*self.lib.rglob("*.cmake"), *self.lib.rglob("*.pc")]:
            text = file.read_text(encoding="utf-8")
            for word in (str(ROOT), str(self.folder), "fmt", "hwy", "nlohmann", "find_dependency"):
                self.assertNotIn(word, text, file.name)

    def test_examples_with_the_install_tree(self):
        for name in ("c", "cpp"):
            binary = self.build(f"install_{name}", ROOT / "examples" / name, f"-DCMAKE_PREFIX_PATH={self.prefix}")
            self.assertIn(str(self.lib), run("ldd", binary / "example"))
            self.expect_sum(binary / "example")

    def test_examples_with_the_build_tree(self):
        for name in ("c", "cpp"):
            binary = self.build(f"build_{name}", ROOT / "examples" / name, f"-Dtconv_DIR={BUILD}")
            self.assertIn(str(BUILD), run("ldd", binary / "example"))
            self.expect_sum(binary / "example")

    def test_pkg_config(self):
        if not shutil.which("pkg-config"):
            self.skipTest("pkg-config is absent")
        environment = {**os.environ, "PKG_CONFIG_PATH": str(self.lib / "pkgconfig")}
        self.assertEqual(run("pkg-config", "--modversion", "tconv", env=environment).strip(), VERSION)
        flags = run("pkg-config", "--cflags", "--libs", "tconv", env=environment).split()
        program = self.folder / "by_pkg_config"
        run(CACHE["CMAKE_C_COMPILER"], "-std=c11", *CACHE["CMAKE_C_FLAGS"].split(), ROOT / "examples/c/main.c", "-o", program, *flags)
        self.expect_sum(program, env={**os.environ, "LD_LIBRARY_PATH": str(self.lib)})

    def test_versions(self):
        for asked, found in ((MINOR, True), (VERSION, True), ("99", False), ("0.0", False)):
            project = self.folder / f"asks_{asked}"
            project.mkdir()
            (project / "CMakeLists.txt").write_text(
                f"cmake_minimum_required(VERSION 3.16)\nproject(asks LANGUAGES CXX)\nfind_package(tconv {asked} QUIET)\n"
                "message(STATUS \"found ${tconv_FOUND}\")\n", encoding="utf-8")
            with self.subTest(asked=asked):
                said = run("cmake", "-G", "Ninja", "-S", project, "-B", project / "build", f"-DCMAKE_PREFIX_PATH={self.prefix}", *SAME)
                self.assertIn(f"found {int(found)}", said)

    def test_inside_another_project(self):
        """Configured only: what it would build is the library; there are no tests, no program and nothing to install."""
        project = self.folder / "outer"
        project.mkdir()
        (project / "main.c").write_text("#include <tconv/tconv.h>\nint main(void) { return tconv_version() == 0; }\n")
        (project / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.25)\nproject(outer LANGUAGES C CXX)\n"
            f"add_subdirectory({ROOT} inner)\nadd_executable(outer main.c)\ntarget_link_libraries(outer PRIVATE tconv::tconv)\n",
            encoding="utf-8")
        binary = project / "build"
        run("cmake", "-G", "Ninja", "-S", project, "-B", binary, *SAME)
        outputs = set(re.findall(r"^([^\s:]+): (?!phony)", run("ninja", "-C", binary, "-t", "targets", "all"), re.MULTILINE))
        self.assertIn(f"inner/libtconv.so.{VERSION}", outputs)
        self.assertNotIn("inner/tconv", outputs)
        self.assertFalse([one for one in outputs if one.startswith("inner/tests/")])
        self.assertNotIn("libtconv", "".join(file.read_text() for file in binary.rglob("cmake_install.cmake")))


if __name__ == "__main__":
    unittest.main()
