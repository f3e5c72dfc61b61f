"""Writes one report from the findings of the checks it depends on."""

import json
import os
from pathlib import Path

found = [json.loads(p.read_text()) for p in sorted(Path(os.environ["FLAKES_INPUTS"]).glob("check-*/findings"))]
rows = [
    f"{f['part']:<6} {f['files']:>5} {f['lines']:>7} {f['functions']:>10} {len(f['problems']):>5} "
    f"{f['modules'] - len(f['failed']):>4}/{f['modules']}"
    for f in found
]
total = sum(f["files"] for f in found)
bad = [p for f in found for p in f["problems"]] + [m for f in found for m in f["failed"]]
verdict = f"All {total} files are sound." if not bad else f"{len(bad)} findings: " + "; ".join(bad[:10])
report = "\n".join(["part   files   lines  functions  lint  tests", *rows, "", verdict])
print(report)
(Path(os.environ["FLAKES_OUTPUTS"]) / "report").write_text(report + "\n")
