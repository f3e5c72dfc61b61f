"""Loading a harness module: from its text alone, with what it may import.

A harness may import the standard library but for what reaches out of it, `flakes.harness`, and by relative
import the files that travel with it. Its own `import` statements are held to that; what the library imports
is its own business.
"""

from __future__ import annotations

import builtins
import hashlib
import linecache
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from flakes.harness.definition import Harness
from flakes.harness.errors import HarnessError

PACKAGE: Final = "flakes_harness_module"
DENIED: Final = frozenset({
    "builtins", "code", "codeop", "concurrent", "ctypes", "dbm", "ensurepip", "fcntl", "fileinput", "ftplib", "getpass", "glob",
    "grp", "http", "imaplib", "importlib", "linecache", "mmap", "multiprocessing", "nntplib", "nt", "pdb", "pkgutil",
    "platform", "poplib", "posix", "pty", "pwd", "resource", "runpy", "select", "selectors", "shelve", "shutil", "signal", "site",
    "smtplib", "socket", "socketserver", "sqlite3", "ssl", "subprocess", "sysconfig", "syslog", "telnetlib", "tempfile", "termios",
    "threading", "tty", "venv", "webbrowser", "xmlrpc", "zipimport",
})  # fmt: skip
"""Of the standard library: processes, threads, the network, files, and what differs between machines."""
OWN: Final = "flakes.harness"


@dataclass(frozen=True, slots=True)
class Source:
    """A module's text, its file's name, and the files beside it that it imports, by name."""

    name: str
    text: str
    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Of all that runs."""
        hashed = hashlib.sha256()
        for name, text in [("", self.text), *sorted(self.files.items())]:
            hashed.update(f"{name}\0{len(text)}\0{text}\0".encode())
        return hashed.hexdigest()

    @property
    def names(self) -> frozenset[str]:
        """File names as they are in lines of the source."""
        return frozenset({self.name, *self.files})


def load(source: Source, say: Callable[[str], None]) -> Harness[Any]:
    """Run the module and give its harness. Raises `HarnessError` (`harness_invalid`, `harness_import_refused`)."""
    package = ModuleType(PACKAGE)
    package.__path__ = []
    for name in [each for each in sys.modules if each.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    sys.modules[PACKAGE] = package
    module = _Loader(source, say).run(source.name, source.text)
    found = [each for each in vars(module).values() if isinstance(each, Harness)]
    if len(found) != 1:
        raise HarnessError(
            "harness_invalid", f"{source.name} defines {len(found) or 'no'} harness{'es' if len(found) > 1 else ''}",
            "write one `@define_harness` above one `async def main(ctx)`",
        )  # fmt: skip
    return found[0]


def may_import(name: str) -> bool:
    """Whether a harness may import a module of this (absolute) name."""
    root = name.partition(".")[0]
    if root == "flakes":
        return name == OWN or name.startswith(OWN + ".")
    return name == "urllib.parse" or (
        root in sys.stdlib_module_names and root not in DENIED and root != "urllib" and not _inner(root)
    )


def _inner(root: str) -> bool:
    """Whether it is a part of the library that others are made of, and not for use by itself."""
    return root.startswith("_") and root != "__future__"


def import_refused(name: str, where: str) -> HarnessError:
    """The refusal of an import."""
    fix = "let a child do what needs it" if name.partition(".")[0] in sys.stdlib_module_names else "use the standard library, `flakes.harness`, or a relative import of a file beside the module"
    return HarnessError("harness_import_refused", f"{where} imports {name}, which a harness may not", fix)


class _Loader:
    def __init__(self, source: Source, say: Callable[[str], None]) -> None:
        self._source = source
        self._builtins = vars(builtins) | {
            "__import__": self._import, "open": _refused("open"), "input": _refused("input"),
            "exec": _refused("exec"), "eval": _refused("eval"), "compile": _refused("compile"),
            "breakpoint": _refused("breakpoint"),
            "print": lambda *words, **_: say(" ".join(str(each) for each in words)),
        }  # fmt: skip

    def run(self, file: str, text: str) -> ModuleType:
        name = f"{PACKAGE}.{file.rpartition('/')[2].removesuffix('.py').replace('-', '_')}"
        module = ModuleType(name)
        module.__file__ = file
        module.__package__ = PACKAGE
        module.__dict__["__builtins__"] = self._builtins
        # Where it can be found by what resolves names in annotations.
        sys.modules[name] = module
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        try:
            exec(compile(text, file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - its very purpose
        except SyntaxError as error:
            raise HarnessError(
                "harness_invalid", f"{file}:{error.lineno}: {error.msg}", "mend the line", line=error.lineno
            ) from error
        return module

    def _import(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0  # noqa: A002
    ) -> Any:
        if level:
            return self._beside(name, fromlist)
        if not may_import(name):
            raise import_refused(name, (globals or {}).get("__file__", "the module"))
        return builtins.__import__(name, globals, locals, fromlist, 0)

    def _beside(self, name: str, fromlist: Any) -> Any:
        if not name:
            package = sys.modules[PACKAGE]
            for each in fromlist:
                setattr(package, each, self._file(each))
            return package
        return self._file(name)

    def _file(self, name: str) -> ModuleType:
        known = sys.modules.get(f"{PACKAGE}.{name}")
        if known is not None:
            return known
        file = f"{name}.py"
        if file not in self._source.files:
            raise HarnessError(
                "harness_import_refused", f"there is no {file} among the files of {self._source.name}",
                "put it beside the module; only files that it imports by `from .name import ...` travel with it",
            )  # fmt: skip
        return self.run(file, self._source.files[file])


def _refused(name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise HarnessError(
            "harness_nondeterministic", f"a harness does not use {name}()",
            "take inputs from `ctx.args` and outputs of children; let a child work with files",
        )  # fmt: skip

    return refuse
