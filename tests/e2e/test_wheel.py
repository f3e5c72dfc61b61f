"""The wheel, installed in an environment of its own, serves the console and its documents with no Node on the machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import msgspec
import pytest

import postgres as databases
from e2e.stage import CHECKOUT, until
from flakes.store.embedded import ConnectionInfo
from postgres import postgres, template

__all__ = ["postgres", "template"]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel; what it depends on is borrowed, this checkout is not."""
    place = tmp_path_factory.mktemp("wheel")
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("there is no uv beside this Python")
    build = [str(uv), "build", "--wheel", "--offline", "--no-build-isolation", "--python", sys.executable, "-o", str(place), str(CHECKOUT)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "venv")], check=True)
    (site,) = (place / "venv" / "lib").glob("python*/site-packages")
    (wheel,) = place.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    # A plain path: what is installed there as a link to a checkout is not followed.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def http(python: Path, postgres: ConnectionInfo, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    place = tmp_path_factory.mktemp("served")
    ready, log = place / "ready.json", place / "log"
    with databases._fresh(postgres, template) as dsn:
        (place / "server.toml").write_text(
            f'[listen]\nport = 0\n[database]\nurl = "{dsn}"\n[blobs]\ndirectory = "{place}/blobs"\n'
            f'[auth]\nlocalCredentialFile = "{place}/owner.credential"\n'
        )
        env = {"PATH": str(python.parent), "HOME": str(place), "FLAKES_READY_FILE": str(ready), "LANG": os.environ.get("LANG", "C.UTF-8")}
        with log.open("wb") as out:
            process = subprocess.Popen([str(python), "-m", "flakes.server", "--config", str(place / "server.toml")], cwd=place, env=env, stdout=out, stderr=out)
        try:
            until(lambda: ready.exists() or process.poll() is not None, 60, "the server")
            assert process.poll() is None, log.read_text()
            token = (place / "owner.credential").read_text().strip()
            with httpx2.Client(base_url=msgspec.json.decode(ready.read_bytes())["server"], headers={"Authorization": f"Bearer {token}"}, trust_env=False) as client:
                yield client
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def test_it_is_the_wheel_that_runs(python: Path) -> None:
    told = subprocess.run([str(python), "-c", "import flakes; print(flakes.__file__)"], capture_output=True, text=True, check=True, cwd="/", env={})
    assert Path(told.stdout.strip()).is_relative_to(python.parents[1])


def test_the_console_and_everything_it_loads_is_there(http: httpx2.Client) -> None:
    page = http.get("/console/runs").raise_for_status().text
    found = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert any(path.endswith("/app/main.js") for path in found)
    for path in found:
        answer = http.get(path).raise_for_status()
        if path.endswith(".js"):
            assert answer.headers["content-type"].startswith("text/javascript")
            base = path.rsplit("/", 1)[0]
            for name in re.findall(r"""(?:^|;)(?:import|export)\s*[\w*{}\s,$]*from\s*["']([^"']+)["']""", answer.text, re.MULTILINE):
                http.get(os.path.normpath(f"{base}/{name}")).raise_for_status()


def test_the_documents_are_its_own(http: httpx2.Client) -> None:
    listed = http.get("/v1/docs").raise_for_status().json()["documents"]
    assert {page["path"] for page in listed} >= {"guide/console", "guide/getting-started", "reference/cli"}
    for page in listed:
        assert "<h1" in http.get(f"/v1/docs/{page['path']}").raise_for_status().json()["html"], page


TYPED = '''
from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

from flakes.harness import Child, Context, Outcome, Result, Round, RoundResult, define_harness


@dataclass
class Verdict:
    winner: int


class Review(TypedDict):
    problems: list[str]


class Model:
    """As models of pydantic look to whoever reads them."""

    score: float

    @classmethod
    def model_validate(cls, value: Any) -> "Model": ...
    @classmethod
    def model_json_schema(cls) -> dict[str, Any]: ...


@define_harness(args=Verdict)
async def main(ctx: Context[Verdict]) -> Outcome:
    assert_type(ctx.args.winner, int)
    child = ctx.agent("x", output=Verdict)
    assert_type(child, Child[Verdict])
    best = await child
    assert_type(best, Result[Verdict])
    assert_type(best.data.winner, int)
    assert_type((await ctx.agent("x", output=Review)).data["problems"], list[str])
    assert_type((await ctx.agent("x", output=Model)).data.score, float)
    assert_type((await ctx.command("x", output=str)).data, str)
    assert_type((await ctx.agent("x", output=ctx.output.json(Verdict, required=False))).data, Verdict)
    assert_type((await ctx.agent("x")).data, None)
    assert_type(await ctx.all(ctx.agent("x", output=Verdict) for _ in range(3)), list[Result[Verdict]])
    assert_type(await ctx.any(ctx.agent("x", output=str)), Result[str])
    live = ctx.agent("x", live=True)
    assert_type(ctx.live_tasks.send(live, "y", output=Verdict), Round[Verdict])
    assert_type(await ctx.live_tasks.send(live, "y", output=Verdict), RoundResult[Verdict])
    assert_type(best.json(Review)["problems"], list[str])
    assert_type(await ctx.outputs.read_json(best, "result", Verdict), Verdict)
    async with ctx.group("g") as group:
        assert_type(group.agent("x", output=Verdict), Child[Verdict])
    assert_type(best.workspace(), str)
    return ctx.succeeded(winner=best.data.winner)
'''


def test_harnesses_are_typed_for_whoever_installs_it(python: Path, tmp_path: Path) -> None:
    """Templates, the guide's examples, and what is inferred of outputs: by a type checker, from the wheel alone."""
    checker = Path(sys.executable).with_name("basedpyright")
    if not checker.exists():
        pytest.skip("there is no basedpyright beside this Python")
    (tmp_path / "typed.py").write_text(TYPED)
    guide = (CHECKOUT / "docs" / "guide" / "harnesses.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    for number, text in enumerate(examples):
        (tmp_path / f"example_{number}.py").write_text(text)
    for path in (python.parents[1]).glob("lib/python*/site-packages/flakes/harness/templates/*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard", "include": ["."]}')
    ran = subprocess.run([str(checker), "--outputjson", "--pythonpath", str(python), "-p", str(tmp_path)], capture_output=True, text=True, check=False, cwd=tmp_path)
    found = msgspec.json.decode(ran.stdout)
    assert found["summary"]["filesAnalyzed"] >= len(examples) + 13
    wrong = [f"{Path(each['file']).name}:{each['range']['start']['line'] + 1}: {each['message']}" for each in found["generalDiagnostics"] if each["severity"] == "error"]
    assert wrong == []
