"""The entry point: finds the command, runs it, and turns every ending into an exit code.

Commands are named here and imported only when used, so that `flakes --help` stays fast. Errors leave in
one way: a sentence and a fix on stderr, or one JSON object there with `--json`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import IO, Any

import click

from flakes import __version__
from flakes.wire.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, ApiError

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("session:up", "Start the local session: control plane, database and host."),
    "down": (
        "session:down",
        "Stop the local session and everything it started, and confirm that it is gone.",
    ),
    "console": ("console:console", "Open the console in a browser that is signed in by a one-time link."),
    "run": ("run:run", "Run a workflow file, a harness or a single task, and follow it to its end."),
    "watch": ("watch:watch", "Follow a run to its end, and show what came of it."),
    "inspect": ("inspect:inspect", "Show a run or a task, and why it is not running."),
    "logs": ("logs:logs", "Show the log of a task, or follow it."),
    "transcript": ("transcript:transcript", "Show what the agents of a task said and did, in all its attempts."),
    "runs": ("runs:runs", "List, create, close, wait for, cancel, retry, export and delete runs."),
    "diff": ("results:diff", "Show what a run, or one task of it, changed in its files."),
    "apply": ("results:apply", "Bring what a run, or one task of it, changed into the files that this is called in."),
    "publish": ("results:publish", "Push what a run made of the files as a branch, from the commit that it began from."),
    "metrics": ("metrics:metrics", "Measure a run: waiting and running times, success, retries."),
    "tasks": ("tasks:tasks", "List, save, admit, cancel and retry tasks; read their results and activity."),
    "artifacts": (
        "artifacts:artifacts",
        "Store, list and fetch files, named by the digest of their content.",
    ),
    "permissions": ("permissions:permissions", "See what tasks ask for, and answer."),
    "ask": ("ask:ask", "Inside a running task: ask its owner for permission, and wait for the answer."),
    "inbox": ("ask:inbox", "Inside a running task: print the messages that it has not read yet."),
    "budget": ("within:budget", "Inside a running task: what it may spend and make, and what is left of it."),
    "groups": ("within:groups", "Inside a running task: open, close and cancel groups of its children."),
    "rounds": ("within:rounds", "Inside a running task: prompt live children, and take prompts as one."),
    "workspace": ("within:workspace", "Inside a running task: store its files, and see or move what the run has selected."),
    "wait": (
        "within:wait",
        "Inside a running task: wait for a group, children, a time or a signal; exit 75 asks to be run again then.",
    ),
    "projects": ("projects:projects", "List, create, archive projects, and bind them to hosts."),
    "hosts": ("hosts:hosts", "See the machines that do the work, and let them go."),
    "sandboxes": ("sandboxes:sandboxes", "See where tasks run; drain, stop and delete."),
    "auth": ("auth:auth", "Sign in and out; show the credential in use; manage sessions and API keys."),
    "harness": ("harness:harness", "Begin, check and read about harnesses: Python that orchestrates agents."),
    "skill": ("skill:skill", "Teach a coding agent to write and drive workflows."),
    "config": ("config:config", "Print annotated configuration files."),
    "doctor": (
        "doctor:doctor",
        "Check what Flakes needs on this machine. Exit 0 when nothing needed is missing.",
    ),
    "server": ("processes:server", "Run a control plane in the foreground."),
    "host": ("host:host", "Set this machine up as a host, run it, look at it."),
    "sandbox": ("processes:sandbox", "Run a sandbox daemon in the foreground."),
}


class Commands(click.Group):
    """The top-level group: a table of names, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return getattr(import_module(f"flakes.cli.commands.{module}"), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            if not near:
                raise
            message = f"{error.message} Did you mean {near[0]!r}?"
            raise click.UsageError(message, ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 internal or server error, 2 usage or refused, 3 ended unsuccessfully, "
    "4 a wait timed out (the work goes on), 5 not signed in, 130 interrupted (the work goes on).",
)
@click.version_option(__version__, message="flakes %(version)s")
@click.option("--server", metavar="URL", help="The control plane to use (also FLAKES_SERVER).")
@click.option("-t", "--token", metavar="TOKEN", help="The bearer token to use (also FLAKES_TOKEN).")
@click.pass_context
def cli(ctx: click.Context, server: str | None, token: str | None) -> None:
    """Durable graphs of coding-agent work, on machines you own.

    The server is --server, else FLAKES_SERVER, else the current profile of the configuration file,
    else the local session. `flakes run "echo hello" --adapter command` is a good first command.
    """
    ctx.obj = {"server": server, "token": token}


def run_cli(
    argv: Sequence[str], stdout: IO[str] | None = None, stderr: IO[str] | None = None
) -> int:
    """Run one command line, without the program's name; returns its exit code and never raises."""
    with contextlib.ExitStack() as stack:
        if stdout is not None:
            stack.enter_context(contextlib.redirect_stdout(stdout))
        if stderr is not None:
            stack.enter_context(contextlib.redirect_stderr(stderr))
        return _run(list(argv))


def main() -> None:
    """The console script."""
    sys.exit(run_cli(sys.argv[1:]))


def _run(argv: list[str]) -> int:
    as_json = "--json" in argv
    try:
        code: Any = cli.main(argv, prog_name="flakes", standalone_mode=False)
        sys.stdout.flush()
    except ApiError as error:
        return _refused(error, as_json)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "flakes"
        return _refused(
            ApiError("usage", error.format_message(), f"see `{command} --help`"), as_json
        )
    except click.ClickException as error:
        return _refused(ApiError("usage", error.format_message()), as_json)
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone; Python must not complain about it while it exits.
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0


def _refused(error: ApiError, as_json: bool) -> int:
    from flakes.cli.output import Output

    Output(as_json).error(error)
    return error.exit_code if error.exit_code else EXIT_INTERNAL
