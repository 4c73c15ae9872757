"""The documents agree with the tree: paths, options, variables, exit codes, and what the example prints."""

import os
import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ["TCONV_BINARY"]
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "examples").rglob("*.md")) + sorted((ROOT / "docs").glob("*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def output(*arguments):
    result = subprocess.run([BINARY, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def table(heading, text=README):
    """Rows of the first table whose head starts with `heading`."""
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])


class Documents(unittest.TestCase):
    def test_paths_exist(self):
        folders = "src|scripts|tests|tools|examples|bench|cmake|docs"
        for document in DOCUMENTS:
            text = document.read_text(encoding="utf-8")
            for path in re.findall(rf"(?<![\w/])(?:{folders})/[\w./*-]*", text):
                if re.search(r"[A-Z]{4}", path):  # a placeholder such as tests/NAME_test.py
                    continue
                path = path.rstrip(".")
                with self.subTest(document=document.name, path=path):
                    self.assertTrue(list(ROOT.glob(path.rstrip("/"))), "no such path")

    def test_links_lead_somewhere(self):
        for document in DOCUMENTS:
            for link in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text(encoding="utf-8")):
                self.assertTrue((document.parent / link).exists(), f"{document.name}: {link}")

    def test_verbs_and_options(self):
        rows = table("verb")
        verbs = [row[0].split()[1] for row in rows]
        listed = re.findall(r"^  (\w+) {2,}", output("--help").partition("Subcommands:")[2], re.MULTILINE)
        self.assertEqual(sorted(verbs), sorted(listed))
        for verb, row in zip(verbs, rows):
            shown = set(re.findall(r"--[a-z-]+", output(verb, "--help"))) - {"--help", "--json"}
            self.assertEqual(set(re.findall(r"--[a-z-]+", row[0])), shown, verb)

    def test_exit_codes(self):
        source = (ROOT / "src/util/error.hpp").read_text(encoding="utf-8")
        codes = set(re.findall(r"^  \w+ = (\d+),", source, re.MULTILINE))
        self.assertEqual({row[0] for row in table("exit code")}, codes)

    def test_variables(self):
        read = set()
        for file in [*(ROOT / "src").rglob("*.cpp"), *(ROOT / "tools").rglob("*.cpp")]:
            read |= set(re.findall(r'(?:getenv|environment)\("(\w+)"\)', file.read_text(encoding="utf-8")))
        self.assertEqual({row[0].strip("`") for row in table("variable")}, read - {"PATH", "HOME", "XDG_CACHE_HOME", "CUDA_HOME"})

    def test_the_example_prints_what_is_shown(self):
        shown = re.findall(r"```\n\$ build/release/tconv (.*)\n((?:.*\n)*?)```", README)
        self.assertTrue(shown)
        for command, expected in shown:
            printed = output(*command.split())
            at = 0
            for part in re.split(r"^\.\.\.\n", expected, flags=re.MULTILINE):
                found = printed.find(part.strip("\n"), at)
                self.assertGreaterEqual(found, 0, f"README.md shows\n{part}\nand the program prints\n{printed}")
                at = found + len(part.strip("\n"))


if __name__ == "__main__":
    unittest.main()
