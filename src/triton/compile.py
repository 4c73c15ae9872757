"""Compiles the matrix-unit kernel of an answer for a named architecture on a machine without a GPU.

Standard input: one JSON object {"source": answer.py, "sm": 89, "dtype": "fp32", "constants": {...},
"configs": [{"BLOCK_ROWS": ..., "num_warps": ..., "num_stages": ...}, ...], "kernel": name}.
Standard output: one JSON object {"triton": version, "configs": [{"registers", "spills", "shared"} or
{"error"}]}; spills are bytes stored plus loaded, as ptxas reports them. Exit status 3: triton is missing.
"""

import json
import os
import re
import subprocess
import sys
import tempfile


def ptxas_report(triton, ptx, sm):
    folder = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")
    tool = os.path.join(folder, "ptxas-blackwell" if sm >= 100 else "ptxas")
    target = re.search(r"\.target\s+(sm_\w+)", ptx).group(1)
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "kernel.ptx")
        with open(path, "w") as file:
            file.write(ptx)
        run = subprocess.run([tool, "-v", "--gpu-name", target, path, "-o", os.path.join(scratch, "kernel.cubin")],
                             capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError("ptxas: " + run.stderr.strip().splitlines()[-1])
    registers = int(re.search(r"Used (\d+) registers", run.stderr).group(1))
    spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", run.stderr))
    stack = sum(int(n) for n in re.findall(r"(\d+) bytes stack frame", run.stderr))
    return registers, max(spills, stack)


def main():
    try:
        import triton
    except ImportError:
        sys.exit(3)
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    job = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as scratch:
        # Triton reads a kernel's text from its file.
        path = os.path.join(scratch, "answer.py")
        with open(path, "w") as file:
            file.write(job["source"])
        space = {"__name__": "answer", "__file__": path}
        exec(compile(job["source"], path, "exec"), space)
        kernel = space[job["kernel"]]
        while not isinstance(kernel, triton.JITFunction):
            kernel = kernel.fn  # autotune wraps the function
        names = [p.name for p in kernel.params]
        if "ACC" in job["constants"]:  # the only argument that is a type
            job["constants"]["ACC"] = getattr(triton.language, job["constants"]["ACC"])
        results = []
        for config in job["configs"]:
            constants = dict(job["constants"])
            constants.update({k: v for k, v in config.items() if k not in ("num_warps", "num_stages")})
            signature = {}
            for name in names:
                if name in constants:
                    signature[name] = "constexpr"
                elif name.endswith("_ptr"):
                    signature[name] = "*" + job["dtype"]
                else:
                    signature[name] = "i32"
            attributes = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n.endswith("_ptr")}
            try:
                built = triton.compile(
                    ASTSource(kernel, signature, {(names.index(k),): v for k, v in constants.items()}, attributes),
                    target=GPUTarget("cuda", job["sm"], 32),
                    options={"num_warps": config["num_warps"], "num_stages": config["num_stages"]})
                registers, spills = ptxas_report(triton, built.asm["ptx"], job["sm"])
                results.append({"registers": registers, "spills": spills, "shared": built.metadata.shared})
            except Exception as error:  # the compiler's own refusal is the result
                results.append({"error": "%s: %s" % (type(error).__name__, str(error).splitlines()[0][:200])})
    json.dump({"triton": triton.__version__, "configs": results}, sys.stdout)


main()
