"""Commands on children, groups, waits, rounds and files: inside a task only, made from the table of the in-task command."""

from __future__ import annotations

from typing import Any, Final

import click

from flakes.cli.inside import in_task
from flakes.sandbox.tools.shim.commands import COMMANDS

_HELP: Final = {
    "--name": "A name to show.",
    "--join": "all_success (the default of groups), all_settled (that of children), first or quorum.",
    "--quorum": "How many have to succeed, with --join quorum.",
    "--max-children": "How many the group takes.",
    "--reason": "Why, for those who look.",
    "--file": "A JSON file with the tasks: a list, or an object with `tasks`.",
    "--key": "The key: of the child, the round or the output.",
    "--title": "What the child is about, in a line.",
    "--adapter": "Which agent does it.",
    "--body": "The brief of the child, in Markdown.",
    "--shell": "The command line of the child.",
    "--output": "Keys of outputs, joined by commas; where one is read, which, or the file it goes to.",
    "--depends-on": "Keys of tasks of the run, joined by commas.",
    "--group": "A group of this task, by key or id.",
    "--detached": "The child outlives this task.",
    "--live": "The child takes prompts.",
    "--idle": "Ask a live child to end when nobody prompts it for so many seconds.",
    "--operation-id": "A name for this request: asked again under it, it is the same one.",
    "--children": "Keys of children joined by commas, or `all`.",
    "--seconds": "So many seconds from the first time it is asked.",
    "--signal": "The name of a signal.",
    "--round": "A round of a live child: TASK/KEY.",
    "--threshold": "How many children have to end, in whatever way.",
    "--timeout": "Give up after so many seconds, with exit code 4.",
    "--hold": "Keep the slot for so many seconds first (default 10).",
    "--no-yield": "Keep the slot for as long as it takes.",
    "--prompt": "What the child is to do.",
    "--payload": "What goes along, as JSON.",
    "--text": "Closing words.",
    "--failed": "The round did not come to what was asked.",
    "--task": "A live child, by key or id; this task when left out.",
    "--message": "What the commit says.",
    "--ref": "Another ref of the run than the one that is selected.",
    "--expected": "The workspace that has to be selected still (default: what is now).",
    "--mode": "replace_bounded_paths or fast_forward.",
    "--base": "The workspace to compare with (default: where the task began).",
    "--workspace": "The workspace to look at (default: the files as they are now).",
    "--name-only": "Paths alone.",
    "--json": "One JSON document.",
}


def within(*words: str) -> click.Command:
    """The in-task command of these words, with its options and arguments."""
    command = COMMANDS[words]
    params: list[click.Parameter] = []
    if command.paths or command.words:
        nargs = -1 if command.paths or "..." in command.words else 1
        params.append(click.Argument(["paths"], nargs=nargs, required=False, metavar=command.words or "NAME..."))
    for name, takes_value in command.options.items():
        names = [name, *(short for short, long in command.short.items() if long == name)]
        params.append(click.Option(names, is_flag=not takes_value, help=_HELP[name]))

    def callback(paths: tuple[str, ...] | str | None = None, **given: Any) -> int:
        as_json = given.pop("json", False)
        options: list[str] = []
        for name, value in given.items():
            option = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                options += [option] if value else []
            elif value is not None:
                options.append(f"{option}={value}")
        names = [paths] if isinstance(paths, str) else [*(paths or ())]
        return in_task(words, *options, *(["--", *names] if names else []), as_json=as_json)

    text = f"Inside a running task: {command.summary[0].lower()}{command.summary[1:]}"
    return click.Command(words[-1], callback=callback, params=params, help=text)


groups = click.Group(
    "groups", help="Inside a running task: open, close and cancel groups of its children.",
    commands=[within("groups", word) for word in ("open", "close", "status", "cancel")],
)  # fmt: skip
budget = click.Group(
    "budget", help="Inside a running task: what it may spend and make, and what is left of it.",
    commands=[within("budget", "show")],
)  # fmt: skip
rounds = click.Group(
    "rounds", help="Inside a running task: prompt live children, and take prompts as one.",
    commands=[
        within("rounds", word) for word in ("send", "finish", "next", "complete", "read", "list")
    ],
)  # fmt: skip
workspace = click.Group(
    "workspace", help="Inside a running task: store its files, and see or move what the run has selected.",
    commands=[within("workspace", word) for word in ("commit", "diff", "selected", "promote")],
)  # fmt: skip
wait = within("wait")
