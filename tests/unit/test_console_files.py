"""The console's files are what was vendored, and load nothing from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files

from flakes.console.assets import load
from flakes.console.documents import pages, search

STATIC = files("flakes.console") / "static"


def test_vendored_modules_are_as_they_were_fetched() -> None:
    vendor = STATIC / "vendor"
    manifest = json.loads((vendor / "manifest.json").read_bytes())
    for entry in manifest:
        assert (
            hashlib.sha256((vendor / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
        ), entry["file"]
        assert (vendor / entry["licenceFile"]).read_text().strip(), entry["licenceFile"]
        assert re.fullmatch(r"[0-9a-f]{64}", entry["sourceSha256"])
    named = (
        {entry["file"] for entry in manifest}
        | {entry["licenceFile"] for entry in manifest}
        | {"manifest.json"}
    )
    assert {each.name for each in vendor.iterdir()} == named


def test_modules_import_each_other_and_nothing_else() -> None:
    loaded = load()
    for path, asset in loaded.files.items():
        if not path.endswith(".js"):
            continue
        text = asset.content.decode()
        for found in re.findall(
            r"""(?:^|;)(?:import|export)\s*[\w*{}\s,$]*from\s*["']([^"']+)["']""",
            text,
            re.MULTILINE,
        ):
            assert found.startswith(("./", "../")), (path, found)
        assert not re.search(r"\bimport\s*\(", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)), (
            path
        )
        assert "eval(" not in text
        assert "new Function" not in text
    shell = loaded.shell.content.decode()
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", shell)
    assert "<style" not in shell
    assert not re.search(r"<script(?![^>]*\bsrc=)", shell)


def test_another_file_is_another_version() -> None:
    assert load().version == load().version
    assert f"/console/static/{load().version}/app/main.js" in load().shell.content.decode()


def test_every_document_has_a_title_and_is_found() -> None:
    known = pages()
    assert len(known) > 15
    assert all(page.title and page.text.strip() for page in known.values())
    hits = search("workpad conflict")
    assert hits
    assert all("workpad" in f"{hit.heading} {hit.page.text}".lower() for hit in hits)
    assert search("there-is-no-such-word-anywhere-zzz") == []
