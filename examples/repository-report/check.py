"""Counts, lints and tests one part of this repository, and leaves what it found as JSON.

Count: lines and public functions. Lint: what the compiler warns about, lines that are too long, public
functions without a docstring. Test: every module can be imported in a fresh interpreter.
"""

import ast
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

part = sys.argv[1]
source = Path(os.environ["FLAKES_SOURCE_DIR"]) / "src"
files = json.loads((Path(os.environ["FLAKES_INPUTS"]) / "survey" / "files").read_text())[part]

lines = functions = 0
problems = []
for name in (source / f for f in files):
    text = name.read_text()
    lines += text.count("\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tree = ast.parse(text, str(name))
        compile(tree, str(name), "exec")
    problems += [f"{name.name}: {w.message}" for w in caught]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            functions += 1
    if not ast.get_docstring(tree):
        problems.append(f"{name.name}: no page of prose at its top")
print(f"{part}: counted {lines} lines, {functions} public functions; lint found {len(problems)}")

modules = [
    ".".join(Path(f).with_suffix("").parts).removesuffix(".__init__")
    for f in files
    if not f.endswith("__main__.py")
]
failed = []
for module in modules:
    test = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import {module}"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(source)},
    )  # fmt: skip
    if test.returncode:
        failed.append(module)
        print(test.stderr, file=sys.stderr)
print(f"{part}: tested {len(modules)} modules, {len(failed)} failed")

findings = {
    "part": part, "files": len(files), "lines": lines, "functions": functions,
    "problems": problems, "modules": len(modules), "failed": failed,
}  # fmt: skip
(Path(os.environ["FLAKES_OUTPUTS"]) / "findings").write_text(json.dumps(findings))
