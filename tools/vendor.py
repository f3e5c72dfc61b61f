"""Fetch the console's vendored modules from npm, pinned, and write them with their hashes and licences.

Needs npm; nobody but who changes a version runs it: `tools/vendor.py` rewrites `static/vendor/` from `PACKAGES`.
The only change to a file is that bare imports become relative ones, so that no import map is needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "src" / "flakes" / "console" / "static" / "vendor"
# package, version, file in the package, name here
PACKAGES = [
    ("preact", "11.2.0", "dist/preact.mjs", "preact.js"),
    ("preact", "11.2.0", "hooks/dist/hooks.mjs", "hooks.js"),
    ("htm", "3.1.1", "dist/htm.mjs", "htm.js"),
    ("@preact/signals-core", "1.14.5", "dist/signals-core.mjs", "signals-core.js"),
    ("@preact/signals", "2.11.4", "dist/signals.mjs", "signals.js"),
]
RELATIVE = {
    "preact": "./preact.js",
    "preact/hooks": "./hooks.js",
    "@preact/signals-core": "./signals-core.js",
}


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    files: list[dict[str, str]] = []
    for package, version, source, name in PACKAGES:
        members = _package(package, version)
        original = members[source]
        text = re.sub(
            r'from"([^"]+)"', lambda match: f'from"{RELATIVE[match[1]]}"', original.decode()
        )
        text = re.sub(r"\n?//# sourceMappingURL=\S+\n?", "\n", text)
        (TARGET / name).write_text(text)
        licence = f"LICENSE-{package.removeprefix('@').replace('/', '-')}"
        (TARGET / licence).write_bytes(members["LICENSE"])
        files.append({
            "file": name,
            "package": package,
            "version": version,
            "source": source,
            "sourceSha256": hashlib.sha256(original).hexdigest(),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "licence": json.loads(members["package.json"])["license"],
            "licenceFile": licence,
        })  # fmt: skip
    (TARGET / "manifest.json").write_text(json.dumps(files, indent=2) + "\n")


def _package(name: str, version: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        packed = subprocess.run(
            ["npm", "pack", "--silent", f"{name}@{version}"],
            cwd=place, check=True, capture_output=True, text=True,
        )  # fmt: skip
        data = (Path(place) / packed.stdout.split()[-1]).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {
            member.name.split("/", 1)[1]: archive.extractfile(member).read()  # pyright: ignore
            for member in archive
            if member.isfile()
        }


if __name__ == "__main__":
    main()
