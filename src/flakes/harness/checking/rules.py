"""The static rules: what can be told from the text of a harness without running it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Final

from flakes.core.keys import is_key, key_from
from flakes.core.suggestion import did_you_mean
from flakes.harness.checking.finding import Finding
from flakes.harness.definition import Defaults
from flakes.harness.groups import JOINS
from flakes.harness.loading import import_refused, may_import
from flakes.harness.spawning import Options

CHILDREN: Final = ("agent", "command")
AWAITED: Final = frozenset({"all", "any", "quorum", "sleep", "signal", "cancel"})
"""Methods of the context that do nothing until they are awaited."""
CALLS: Final[dict[str, str]] = {
    **dict.fromkeys(("time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.perf_counter_ns",
                     "time.process_time", "time.localtime", "time.gmtime", "time.ctime", "datetime.datetime.now",
                     "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"), "use `ctx.now()`"),
    **dict.fromkeys(("time.sleep",), "use `await ctx.sleep(seconds)`"),
    **dict.fromkeys(("uuid.uuid1", "uuid.uuid4"), "make names from what is in the journal, or use `ctx.random()`"),
    **dict.fromkeys(("io.open", "io.FileIO", "pathlib.Path"), "take it from `ctx.args`, or let a child do it"),
    **dict.fromkeys(("asyncio.to_thread", "asyncio.run", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"), "let a child do it: `ctx.command(...)`"),
}  # fmt: skip
MODULES: Final = {"random": "use `ctx.random()`", "secrets": "use `ctx.random()`"}
PATHS: Final = ("pathlib.Path.", "pathlib.PosixPath", "pathlib.WindowsPath")
OF_OS: Final = frozenset({"path", "sep", "altsep", "pathsep", "linesep", "curdir", "pardir", "extsep", "fspath", "PathLike"})
"""What of `os` is the same everywhere. Of `os.path`, what looks at no file."""
OF_OS_PATH: Final = frozenset({
    "basename", "commonpath", "commonprefix", "dirname", "isabs", "join", "normcase", "normpath", "split", "splitdrive",
    "splitext", "sep", "altsep", "pathsep", "curdir", "pardir",
})  # fmt: skip
OF_SYS: Final = frozenset({"argv", "executable", "exit", "modules", "path", "stdin", "setrecursionlimit", "settrace", "setprofile", "_getframe"})
"""What of `sys` differs between processes, or changes them."""
REFUSED: Final = frozenset({"harness_nondeterministic", "harness_import_refused"})
"""Codes of what a module is not run with."""
BUILTINS: Final = frozenset({"open", "input", "eval", "exec", "compile", "breakpoint", "__import__"})


def look(text: str, file: str, defaults: Defaults | None, beside: frozenset[str]) -> list[Finding]:
    """Everything that the rules say of a module. `beside`: names of the files next to it."""
    try:
        tree = ast.parse(text, file)
    except SyntaxError as error:
        return [Finding("harness_invalid", error.msg, "mend the line", "static", error.lineno, error.offset)]
    return sorted(_Rules(tree, defaults, beside, file).findings(), key=lambda each: (each.line or 0, each.column or 0))


@functools.cache
def refusal(text: str, file: str, beside: frozenset[str]) -> Finding | None:
    """The first reason not to run a module, or a file that goes with it: what a replay could not repeat."""
    try:
        tree = ast.parse(text, file)
    except SyntaxError:
        return None  # it is told where it is loaded
    found = [each for each in _Rules(tree, None, beside, file).findings() if each.code in REFUSED and each.severity == "error"]
    return min(found, key=lambda each: (each.line or 0, each.column or 0), default=None)


class _Rules:
    def __init__(self, tree: ast.Module, defaults: Defaults | None, beside: frozenset[str], file: str) -> None:
        self._tree = tree
        self._defaults = defaults
        self._beside = beside
        self._file = file
        self._names = dict(_imported(tree))
        self._harnesses = [each for each in _functions(tree) if self._defines(each)]
        self._contexts = self._context_names()

    def findings(self) -> Iterator[Finding]:
        yield from self._definition()
        for node in ast.walk(self._tree):
            match node:
                case ast.Import() | ast.ImportFrom():
                    yield from self._import(node)
                case ast.Call():
                    yield from self._call(node)
                case ast.Expr(value=ast.Call() as call) if self._method(call) in AWAITED:
                    yield _at(
                        call, "harness_not_awaited", f"`ctx.{self._method(call)}(...)` is not awaited, so nothing happens",
                        "write `await` before it",
                    )  # fmt: skip
                case ast.Attribute() if self._of_library(node) and (outside := self._outside(self._dotted(node))):
                    yield _at(node, "harness_nondeterministic", f"`{outside}` reaches out of the harness", "take it from `ctx.args`, or let a child do it")
                case ast.For(iter=walked) | ast.comprehension(iter=walked) if _is_set(walked):
                    yield _at(walked, "harness_nondeterministic", "the order of a set is not the same everywhere", "sort it: `sorted(...)`", severity="warning")
                case ast.ExceptHandler(type=None) | ast.ExceptHandler(type=ast.Name(id="BaseException")):
                    yield _at(node, "harness_catches_all", "this also catches what ends a replay", "catch `ChildFailed`, `HarnessError` or `Exception`", severity="warning")
                case _:
                    pass

    def _definition(self) -> Iterator[Finding]:
        if not self._harnesses:
            yield Finding("harness_invalid", "there is no `@define_harness`", "write it above one `async def main(ctx)`", "static", 1, 1)
        for each in self._harnesses[1:]:
            yield _at(each, "harness_invalid", "a module has one harness, and this is another", "keep one, and call the others as functions")
        for each in self._harnesses[:1]:
            if not isinstance(each, ast.AsyncFunctionDef):
                yield _at(each, "harness_invalid", f"`{each.name}` is not async", f"write `async def {each.name}(ctx)`")
            if len(each.args.args) != 1:
                yield _at(each, "harness_invalid", f"`{each.name}` takes {len(each.args.args)} arguments", f"write `async def {each.name}(ctx)`; arguments are in `ctx.args`")
            if not any(isinstance(node, ast.Return) and node.value is not None for node in ast.walk(each)):
                yield _at(each, "harness_invalid", f"`{each.name}` never returns an outcome", "end it with `return ctx.succeeded(...)`")

    def _import(self, node: ast.Import | ast.ImportFrom) -> Iterator[Finding]:
        if isinstance(node, ast.ImportFrom) and node.level:
            for name in [node.module] if node.module else [each.name for each in node.names]:
                if f"{name}.py" not in self._beside:
                    yield _at(node, "harness_import_refused", f"there is no {name}.py beside the module", "relative imports name files of the same directory")
            return
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
        for name in names:
            if isinstance(node, ast.ImportFrom):
                for each in node.names:
                    if outside := self._outside(f"{name}.{each.name}"):
                        yield _at(node, "harness_nondeterministic", f"`{outside}` reaches out of the harness", "take it from `ctx.args`, or let a child do it")
            if not may_import(name):
                refused = import_refused(name, self._file)
                yield _at(node, refused.code, refused.message, refused.fix)

    def _of_library(self, node: ast.expr) -> bool:
        """Whether the first name of it was imported."""
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in self._names

    def _outside(self, dotted: str) -> str:
        """A name of the library that tells of the machine, or changes it; empty for any other."""
        root, _, name = dotted.partition(".")
        if root == "os" and name and "." not in name:
            return "" if name in OF_OS else dotted
        if dotted.startswith("os.path.") and dotted.count(".") == 2:
            return "" if name.removeprefix("path.") in OF_OS_PATH else dotted
        return dotted if root == "sys" and name in OF_SYS else ""

    def _call(self, call: ast.Call) -> Iterator[Finding]:
        dotted = self._dotted(call.func)
        fix = CALLS.get(dotted) or MODULES.get(dotted.partition(".")[0] if "." in dotted else "")
        if dotted == "random.Random" and call.args:
            fix = None  # of a seed that is the same in every replay
        if fix is None and dotted.startswith(PATHS):
            fix = CALLS["pathlib.Path"]
        if fix is not None:
            yield _at(call, "harness_nondeterministic", f"`{dotted}` gives something else in a replay", fix)
        if isinstance(call.func, ast.Name) and call.func.id in BUILTINS and call.func.id not in self._names:
            yield _at(call, "harness_nondeterministic", f"a harness does not use `{call.func.id}`", "take it from `ctx.args`, or let a child do it")
        method = self._method(call)
        if method in ("agent", "command", "group"):
            yield from self._keys(call, method)
        if method == "agent":
            yield from self._adapter(call)
        if self._begins(call):
            yield from _options(call)

    def _begins(self, call: ast.Call) -> bool:
        """Whether it begins a child: by the context, or by a group that the context made just there."""
        if self._method(call) in CHILDREN:
            return True
        function = call.func
        inner = function.value if isinstance(function, ast.Attribute) and function.attr in CHILDREN else None
        return isinstance(inner, ast.Call) and self._method(inner) == "group"

    def _keys(self, call: ast.Call, method: str) -> Iterator[Finding]:
        given = _keyword(call, "key")
        if method == "group" and call.args:
            given = call.args[0]
        if isinstance(given, ast.Constant) and isinstance(given.value, str) and not is_key(given.value):
            yield _at(given, "child_invalid", f"{given.value!r} is not a key", f"write {key_from(given.value, 'child')!r}")
        join = _keyword(call, "join")
        if method == "group" and isinstance(join, ast.Constant) and join.value not in JOINS:
            yield _at(join, "child_invalid", f"{join.value!r} is no rule for a group", f"one of {', '.join(JOINS)}")

    def _adapter(self, call: ast.Call) -> Iterator[Finding]:
        """A module may have its own defaults; so may a task, and then they are given to the check."""
        own = any(
            any(each.arg == "defaults" for each in decorator.keywords)
            for harness in self._harnesses for decorator in harness.decorator_list if isinstance(decorator, ast.Call)
        )  # fmt: skip
        known = _keyword(call, "adapter") is not None or any(each.arg is None for each in call.keywords)
        if not known and not own and (self._defaults is None or self._defaults.adapter is None):
            yield _at(
                call, "child_adapter_missing", "this child names no adapter, and no default was given",
                'say `adapter="pi"`, or `define_harness(defaults=Defaults(adapter="pi"))`, or run it with an adapter', severity="warning",
            )  # fmt: skip

    def _method(self, call: ast.Call) -> str:
        """The name of a method of the context (or of a group) that is called; empty for anything else."""
        if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id in self._contexts:
            return call.func.attr
        return ""

    def _context_names(self) -> set[str]:
        names = {each.args.args[0].arg for each in self._harnesses if each.args.args}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.arg) and node.annotation is not None and "Context" in ast.unparse(node.annotation):
                names.add(node.arg)
        return names

    def _defines(self, function: Any) -> bool:
        for each in function.decorator_list:
            name = self._dotted(each.func if isinstance(each, ast.Call) else each)
            if name.endswith("define_harness"):
                return True
        return False

    def _dotted(self, node: ast.expr) -> str:
        """The full name of what an expression names, by the imports of the module."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            inner = self._dotted(node.value)
            return f"{inner}.{node.attr}" if inner else ""
        return ""


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield (each.asname or each.name.partition(".")[0]), (each.name if each.asname else each.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            for each in node.names:
                yield (each.asname or each.name), f"{node.module}.{each.name}"


def _functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [each for each in ast.walk(tree) if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]


def _is_set(node: ast.expr) -> bool:
    if isinstance(node, (ast.Set, ast.SetComp)):
        return True
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset")


def _options(call: ast.Call) -> Iterator[Finding]:
    known = {*(each.name for each in fields(Options)), "title"}
    for each in call.keywords:
        if each.arg is not None and each.arg not in known:
            yield _at(each, "child_invalid", f"a child has no `{each.arg}`", did_you_mean(each.arg, known) or f"one of {', '.join(sorted(known))}")


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)


def _at(node: Any, code: str, message: str, fix: str, severity: Any = "error") -> Finding:
    return Finding(code, message, fix, "static", node.lineno, node.col_offset + 1, severity=severity)
