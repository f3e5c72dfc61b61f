"""Lists the Python files of the named parts of `src/flakes`, for the tasks that check them."""

import json
import os
import sys
from pathlib import Path

source = Path(os.environ["FLAKES_SOURCE_DIR"]) / "src"
files = {
    part: sorted(str(p.relative_to(source)) for p in (source / "flakes" / part).rglob("*.py"))
    for part in sys.argv[1:]
}
missing = [part for part, found in files.items() if not found]
if missing:
    sys.exit(f"no Python files in {', '.join(missing)}")
for part, found in files.items():
    print(f"{part}: {len(found)} files")
(Path(os.environ["FLAKES_OUTPUTS"]) / "files").write_text(json.dumps(files))
