"""The in-task commands: which there are, what they take, and how a command line becomes one of them.

The names are those of the ordinary command line. Exit codes too: 0 done, 1 internal, 2 usage or refused,
3 denied, 4 nothing came within the time.
"""

from __future__ import annotations

import sys
from importlib import import_module

from flakes.sandbox.tools.shim.link import Refused, refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Body = Callable[["Given"], int]


class Command:
    """`operation`: what it asks for. `options` are names to whether they take a value; `paths`: whether it
    takes arguments. `module` holds its function, named like the last word with an underscore behind. `words`:
    how the one argument is called of a command that takes no paths; whether it has to be there is the
    command's to say. `short`: other names of options."""

    def __init__(
        self, operation: str, module: str, summary: str, options: dict[str, bool], *, paths: bool,
        words: str = "", short: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.operation = operation
        self.module = module
        self.summary = summary
        self.options = {**options, "--json": False}
        self.paths = paths
        self.words = words
        self.short = short or {}


class Given:
    """A parsed command line."""

    def __init__(self, paths: list[str], values: dict[str, str], flags: set[str]) -> None:
        self.paths = paths
        self.values = values
        self.as_json = "--json" in flags
        self.prefix = "--prefix" in flags
        self.all = "--all" in flags
        self.no_wait = "--no-wait" in flags
        self.raw = "--raw" in flags
        self.flags = flags

    def seconds(self, name: str) -> float:
        """The value of an option that is a number of seconds."""
        try:
            seconds = float(self.values[name])
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= 366 * 86_400:
            raise refusal("usage", f"{name} is not a number of seconds: {self.values[name][:40]!r}", f"{name} 60")
        return seconds

    def number(self, name: str) -> int:
        """The value of an option that is a whole number."""
        value = self.values[name]
        if not value.isdigit() or len(value) > 9:
            raise refusal("usage", f"{name} is not a number: {value[:40]!r}", f"{name} 2")
        return int(value)


COMMANDS: dict[tuple[str, ...], Command] = {
    ("tasks", "workpad", "pull"): Command(
        "workpad.read", "workpad", "Fetch the task's workpad into $FLAKES_STATE_DIR/workpad.md.",
        {}, paths=False,
    ),
    ("tasks", "workpad", "push"): Command(
        "workpad.save", "workpad", "Save $FLAKES_STATE_DIR/workpad.md as the next version.",
        {"--base-version": True}, paths=False,
    ),
    ("tasks", "workpad", "show"): Command(
        "task.workpad", "workpad", "Print the workpad of another task of the run.", {}, paths=False, words="TASK",
    ),
    ("tasks", "files", "reserve"): Command(
        "files.reserve", "files", "Say that this task is about to change these paths; all or none.",
        {"--prefix": False, "--reason": True}, paths=True,
    ),
    ("tasks", "files", "release"): Command(
        "files.release", "files", "Give reserved paths up again.",
        {"--prefix": False, "--all": False}, paths=True,
    ),
    ("tasks", "files", "list"): Command(
        "files.list", "files", "List what this task has reserved.", {}, paths=False,
    ),
    ("tasks", "files", "check"): Command(
        "files.check", "files", "Say whether other tasks have reserved these paths (then exit code 2).",
        {"--prefix": False}, paths=True,
    ),
    ("ask",): Command(
        "permission.ask", "ask", "Ask the owner of the run, and wait: exit 0 approved, 3 denied.",
        {
            "--action": True, "--details": True, "--expires": True, "--default": True,
            "--operation-id": True, "--no-wait": False, "--poll": True,
        }, paths=False, words="[PROMPT]",
    ),
    ("inbox",): Command(
        "inbox.read", "inbox", "Print the messages that were not read yet, and acknowledge them.",
        {"--wait": True}, paths=False,
    ),
    ("budget", "show"): Command(
        "budget.read", "budget", "Print what this task may spend and make, and what is left of it.", {}, paths=False,
    ),
    ("artifacts", "create"): Command(
        "artifact.create", "artifacts", "Store a file as an artifact of this task, or what a JSON file describes.",
        {"--file": True, "--kind": True, "--name": True, "--media-type": True}, paths=False,
        words="[PATH]", short={"-f": "--file"},
    ),
    ("artifacts", "fetch"): Command(
        "artifact.read", "artifacts", "Fetch an artifact of the run, or of the task's inputs, to stdout or a file.",
        {"--output": True, "--raw": False}, paths=False, words="ARTIFACT", short={"-o": "--output"},
    ),
    ("groups", "open"): Command(
        "group.open", "groups", "Open a group of children, or find the one of this key.",
        {"--name": True, "--join": True, "--quorum": True, "--max-children": True}, paths=False, words="KEY",
    ),
    ("groups", "close"): Command(
        "group.close", "groups", "Close a group: no more children, and it can be awaited.", {}, paths=False,
        words="KEY",
    ),
    ("groups", "status"): Command(
        "group.status", "groups", "Say how a group stands.", {}, paths=False, words="KEY",
    ),
    ("groups", "cancel"): Command(
        "group.cancel", "groups", "Cancel what lives of a group.", {"--reason": True}, paths=False, words="KEY",
    ),
    ("tasks", "spawn"): Command(
        "task.spawn", "children", "Make a child of this task, or those that a JSON file lists.",
        {
            "--file": True, "--key": True, "--title": True, "--adapter": True, "--body": True, "--shell": True,
            "--output": True, "--depends-on": True, "--group": True, "--detached": False, "--live": False, "--idle": True,
            "--operation-id": True,
        }, paths=False, short={"-f": "--file"},
    ),
    ("tasks", "children"): Command(
        "task.children", "children", "List the children of this task, all or those of a group.",
        {"--group": True}, paths=False,
    ),
    ("tasks", "cancel"): Command(
        "task.cancel", "children", "Cancel children of this task, by key or id.", {"--reason": True}, paths=True,
    ),
    ("tasks", "outputs"): Command(
        "task.outputs", "children", "List what an ended task of the run left behind.", {}, paths=False,
        words="TASK",
    ),
    ("tasks", "output"): Command(
        "task.output", "children", "Print an output of an ended task of the run, or write it to a file.",
        {"--key": True, "--output": True}, paths=False, words="TASK", short={"-o": "--output"},
    ),
    ("tasks", "signal"): Command(
        "task.signal", "children", "Send a signal to the parent or a child: its key or id, and a name.",
        {"--payload": True, "--operation-id": True}, paths=True,
    ),
    ("rounds", "send"): Command(
        "round.send", "rounds", "Send a prompt to a live child.",
        {"--prompt": True, "--key": True, "--payload": True, "--operation-id": True}, paths=False, words="TASK",
    ),
    ("rounds", "finish"): Command(
        "round.finish", "rounds", "Send no more prompts to a live child.", {}, paths=False, words="TASK",
    ),
    ("rounds", "next"): Command(
        "round.next", "rounds", "Print this live task's next prompt; exit 4 no more, 75 none yet.",
        {"--hold": True, "--no-yield": False}, paths=False,
    ),
    ("rounds", "complete"): Command(
        "round.complete", "rounds", "Complete a round of this live task.",
        {"--output": True, "--text": True, "--failed": False}, paths=False, words="KEY",
    ),
    ("rounds", "read"): Command(
        "round.read", "rounds", "Show a round of a live child or of this task, or print an output of it.",
        {"--task": True, "--output": True}, paths=False, words="KEY",
    ),
    ("rounds", "list"): Command(
        "round.list", "rounds", "List the rounds of a live child or of this task.", {"--task": True},
        paths=False,
    ),
    ("tasks", "list"): Command("run.tasks", "children", "List the tasks of the run.", {}, paths=False),
    ("wait",): Command(
        "task.wait", "wait", "Wait for a group, children, a time or a signal; exit 75 asks to be run again then.",
        {
            "--group": True, "--children": True, "--seconds": True, "--signal": True, "--round": True, "--join": True,
            "--quorum": True, "--threshold": True, "--timeout": True, "--hold": True, "--no-yield": False,
            "--operation-id": True,
        }, paths=False,
    ),
    ("workspace", "commit"): Command(
        "workspace.commit", "workspace", "Store the task's files (or these paths) as they are now.",
        {"--message": True}, paths=False, words="[PATH...]", short={"-m": "--message"},
    ),
    ("workspace", "selected"): Command(
        "workspace.selected", "workspace", "Print the workspace that the run has selected.",
        {"--ref": True}, paths=False,
    ),
    ("workspace", "promote"): Command(
        "workspace.promote", "workspace", "Select a workspace that was made from what is selected.",
        {"--expected": True, "--ref": True, "--mode": True}, paths=False, words="WORKSPACE",
    ),
    ("workspace", "diff"): Command(
        "workspace.diff", "workspace", "Show what the task has changed, or how workspaces differ.",
        {"--base": True, "--workspace": True, "--name-only": False}, paths=False, words="[PATH...]",
    ),
}  # fmt: skip
"""Equal to the words of `wire.operations.OPERATIONS` and `LOCAL`; a test holds them together."""


def run(argv: Sequence[str]) -> int:
    """Run one command line, without the program's name; returns the exit code."""
    as_json = "--json" in argv
    try:
        return _run(list(argv))
    except Refused as refused:
        return refused.show(as_json=as_json)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return refusal(
            "internal_error", f"{error}", "look at the path, and at the space on the disk", exit_code=1
        ).show(as_json=as_json)


def _run(argv: list[str]) -> int:
    for words, command in COMMANDS.items():
        if tuple(argv[: len(words)]) == words:
            rest = argv[len(words) :]
            if "-h" in rest or "--help" in rest:
                sys.stdout.write(f"{usage(words, command)}\n\n{command.summary}\n")
                return 0
            return _body(words, command)(parsed(rest, words, command))
    known = "\n".join(f"  {usage(words, command)}" for words, command in COMMANDS.items())
    if not argv or "-h" in argv or "--help" in argv:
        sys.stdout.write(f"Inside a task there are these commands:\n\n{known}\n")
        return 0 if argv else 2
    raise refusal(
        "usage", f"there is no `flakes {' '.join(argv[:3])}` inside a task", f"use one of\n{known}"
    )


def _body(words: tuple[str, ...], command: Command) -> Body:
    module = import_module(f"flakes.sandbox.tools.shim.{command.module}")
    return getattr(module, f"{words[-1]}_")


def parsed(rest: list[str], words: tuple[str, ...], command: Command) -> Given:
    """Options and paths of a command line; raises `Refused` (`usage`)."""
    fix = usage(words, command)
    paths: list[str] = []
    values: dict[str, str] = {}
    flags: set[str] = set()
    pending = list(rest)
    while pending:
        word = pending.pop(0)
        if word == "--":
            paths += pending
            break
        if not word.startswith("-") or word == "-":
            paths.append(word)
            continue
        name, has_value, value = word.partition("=")
        name = command.short.get(name, name)
        takes_value = command.options.get(name)
        if takes_value is None:
            raise refusal("usage", f"no such option: {name}", fix)
        if takes_value:
            if not has_value:
                if not pending:
                    raise refusal("usage", f"{name} needs a value", fix)
                value = pending.pop(0)
            values[name] = value
        elif has_value:
            raise refusal("usage", f"{name} takes no value", fix)
        else:
            flags.add(name)
    any_number = command.paths or command.words.endswith("...]")
    surplus = [] if any_number else paths[1:] if command.words else paths
    if surplus:
        raise refusal("usage", f"unexpected argument: {surplus[0]}", fix)
    if command.paths and bool(paths) == ("--all" in flags):
        raise refusal("usage", "name paths" + (", or use --all" if "--all" in command.options else ""), fix)
    return Given(paths, values, flags)


def usage(words: tuple[str, ...], command: Command) -> str:
    """One line: the command and all that it takes."""
    options = [f"[{name} {name[2:].upper()}]" if value else f"[{name}]" for name, value in command.options.items()]
    return " ".join(["flakes", *words, *(["PATH..."] if command.paths else [command.words] if command.words else []), *options])
