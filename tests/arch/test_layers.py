"""The shape of the code: who imports whom, what `core` may touch, sizes, names of events and errors, and what no file says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from flakes.wire.errors import CODES
from flakes.wire.events import TYPES
from flakes.wire.operations import OPERATIONS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "flakes"
MODULES = sorted(SOURCE.rglob("*.py"))
LINES_MAX = 600
IMPURE = {
    "asyncio", "datetime", "io", "logging", "os", "pathlib", "random", "secrets", "shutil", "socket",
    "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_layers_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is a tool of `make check`, and not installed here")
    checked = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_only_server_imports_store() -> None:
    """Also without the linter, and inside functions. The command line starts servers, and imports them."""
    for path in MODULES:
        package = path.relative_to(SOURCE).parts[0]
        used = {module.split(".")[1] for module in _imports(path) if module.startswith("flakes.")}
        if package not in ("server", "store"):
            assert "store" not in used, name_of(path)
        if package not in ("server", "cli"):
            assert "server" not in used, name_of(path)


@pytest.mark.parametrize("path", sorted((SOURCE / "core").rglob("*.py")), ids=name_of)
def test_core_is_pure(path: Path) -> None:
    for module in _imports(path):
        top = module.split(".")[0]
        if top == "flakes":
            assert module.startswith("flakes.core"), module
        else:
            assert top in sys.stdlib_module_names, f"core is the standard library only: {module}"
            assert top not in IMPURE, f"core has no clock, randomness or I/O: {module}"
    called = {
        node.func.id
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval", "__import__"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LINES_MAX, f"split it: more than {LINES_MAX} lines"
    code = [node for node in tree(path).body if not isinstance(node, ast.ImportFrom)]
    if path.name == "__init__.py" and not code:
        return  # a package of which nothing is said but that it is one
    assert ast.get_docstring(tree(path)), "a module says what it owns"


def test_every_event_that_is_written_is_listed_and_the_other_way_round() -> None:
    packages = {type_.split(".")[0] for type_ in TYPES}
    form = re.compile(rf"(?:{'|'.join(packages)})\.[a-z]+(?:_[a-z]+)*")
    emitted: set[str] = set()
    for package in ("store", "server"):
        for path in sorted((SOURCE / package).rglob("*.py")):
            logged = {id(node) for node in _log_names(path)}
            for node in ast.walk(tree(path)):
                if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                    continue
                if id(node) in logged:
                    continue
                if form.fullmatch(node.value):
                    emitted.add(node.value)
                elif "insert into events" in node.value:
                    emitted |= set(re.findall(r"'([a-z]+\.[a-z_]+)'", node.value))
    # `f"task.{status.lower()}"` names the three ends of a task.
    emitted |= {"task.succeeded", "task.failed", "task.cancelled"}
    # `f"message.{state}"` names what a sandbox reports of a message.
    emitted |= {"message.delivered", "message.consumed"}
    # `f"sandbox.{state}"` and `f"binding.{status}"` name what the tables of the fleet say.
    emitted |= {f"sandbox.{state}" for state in ("draining", "stopping", "cancelled")}
    emitted |= {f"binding.{status}" for status in ("pending", "available", "unavailable")}
    # Operations of tasks are named alike and live in the same packages.
    emitted -= OPERATIONS.keys()
    assert emitted - TYPES.keys() == set(), "list them in wire.events.TYPES"
    assert TYPES.keys() - emitted == set(), "nothing writes these"


def test_every_error_code_that_is_raised_is_listed() -> None:
    raised: set[str] = set()
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "ApiError"
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                raised.add(node.args[0].value)
    assert len(raised) > 20
    assert raised <= CODES.keys()


def test_every_code_of_a_route_is_listed() -> None:
    from flakes.server.app import ENDPOINTS

    for endpoint in ENDPOINTS:
        assert set(endpoint.errors) <= CODES.keys(), endpoint.path
        assert all(CODES[code].status for code in endpoint.errors), endpoint.path


# What no file says


def files() -> list[Path]:
    """What is in the repository, or would be with the next commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def texts() -> Iterator[tuple[str, str]]:
    for path in files():
        try:
            yield name_of(path), path.read_text()
        except UnicodeDecodeError:
            continue


def test_no_file_names_the_place_where_it_was_written() -> None:
    place = "/" + "work" + "/"
    assert [name for name, text in texts() if place in text] == []


def test_requirements_hold_names_versions_and_hashes_only() -> None:
    """No index, no address, no path: the same file does everywhere."""
    line_form = re.compile(
        r"(?:[a-z0-9][a-z0-9._-]*(?:\[[a-z0-9,._-]+\])?==[^\s@/]+(?: ; [^/]+)? \\|    --hash=sha256:[0-9a-f]{64}(?: \\)?|\s+#.*|#.*|)"
    )
    found = [path for path in files() if path.parent.name == "requirements" and path.suffix == ".txt"]
    assert found
    for path in found:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert line_form.fullmatch(line), f"{name_of(path)}:{number}: {line}"
            assert "//" not in line, f"{name_of(path)}:{number}: {line}"


def test_no_tracked_file_names_a_package_index_or_a_home_directory() -> None:
    index = re.compile(r"--(?:extra-)?index-url[ =]\S*//|\b(?:PIP_INDEX_URL|UV_(?:DEFAULT_)?INDEX(?:_URL)?)=\w")
    home = re.compile(r"/(?:home|Users)/(?!me/|you/|user/|ada/|flakes/)[a-z][a-z0-9_-]+/")
    for name, text in texts():
        assert not index.search(text), name
        if name.endswith((".txt", ".toml", ".cfg", ".yml", ".yaml", ".sh", "Makefile")):
            assert not home.search(text), name


def test_addresses_in_code_are_examples_or_loopback() -> None:
    """A host name in the product's own code is this machine, an example, or a documented standard."""
    address = re.compile(r"https?://(?:[^\s/@]*@)?(?P<host>[A-Za-z0-9.-]+\.[A-Za-z]{2,})")
    allowed = re.compile(r"(?:.*\.)?example(?:\.(?:com|org|net))?|json-schema\.org|www\.rfc-editor\.org")
    for path in MODULES:
        for found in address.finditer(path.read_text()):
            assert allowed.fullmatch(found["host"]), f"{name_of(path)}: {found.group(0)}"


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _log_names(path: Path) -> Iterator[ast.expr]:
    """First arguments of `log.<level>(...)`: names of log lines look like types of events."""
    for node in ast.walk(tree(path)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "log"
            and node.args
        ):
            yield node.args[0]
