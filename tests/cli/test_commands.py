"""The commands, end to end against a fake control plane: output, exit codes, and who is asked."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.conftest import Ran
from cli.fake_plane import TOKEN, FakePlane

Flakes = Callable[..., Ran]

PLAN = """\
+++
project = "site"
adapter = "command"
vars = { word = "hello" }
+++
# Release

## build: Build it
run: echo {{word}}

## test: Test it
depends_on: build
run: echo tested
"""


def write(path: Path, text: str = PLAN) -> str:
    path.write_text(text)
    return str(path)


def test_a_prompt_runs_to_its_end_and_prints_its_result(remote: Flakes, plane: FakePlane) -> None:
    ran = remote("run", "echo hello", "--adapter", "command")
    assert ran.code == 0, ran.err
    assert "hello" in ran.out
    assert " running" in ran.err
    assert "SUCCEEDED" in ran.err
    body = plane.bodies[0]
    assert body["close"] is True
    assert body["tasks"][0]["input"] == {"shell": "echo hello"}
    assert Path(body["metadata"]["sourceDir"]).is_dir()
    assert list(plane.projects) == ["default"]


def test_a_workflow_file_runs_with_its_own_settings(
    remote: Flakes, plane: FakePlane, tmp_path: Path
) -> None:
    ran = remote("run", write(tmp_path / "plan.md"), "--var", "word=bye")
    assert ran.code == 0, ran.err
    body = plane.bodies[0]
    assert (body["projectKey"], body["name"]) == ("site", "Release")
    assert body["tasks"][0]["input"] == {"shell": "echo bye"}
    assert next(iter(plane.runs)).startswith("plan-")


def test_running_again_makes_a_new_run(remote: Flakes, plane: FakePlane, tmp_path: Path) -> None:
    file = write(tmp_path / "plan.md")
    remote("run", file, "--detach")
    time.sleep(0.11)  # keys differ from a tenth of a second on
    remote("run", file, "--detach")
    assert len(plane.runs) == 2


def test_a_failed_run_exits_3_with_reason_and_last_lines(remote: Flakes, tmp_path: Path) -> None:
    text = PLAN.replace("echo {{word}}", "exit 7\\\\nlast words")
    ran = remote("run", write(tmp_path / "plan.md", text))
    assert ran.code == 3
    assert "exit code 7" in ran.out
    assert "last words" in ran.out
    assert "1 task did not start because of that" in ran.err
    assert "flakes inspect" in ran.err
    assert "flakes logs" in ran.err


def test_json_of_a_run_is_one_document(remote: Flakes) -> None:
    ran = remote("run", "echo hello", "--adapter", "command", "--json")
    assert ran.json["run"]["state"] == "SUCCEEDED"
    assert ran.json["results"]["task"]["text"] == "hello"


def test_detach_returns_at_once(remote: Flakes, plane: FakePlane) -> None:
    ran = remote("run", "hold", "--adapter", "command", "--detach", "--key", "long")
    assert (ran.code, ran.out) == (0, "long\n")
    assert "flakes watch long" in ran.err


def test_a_timeout_exits_4_and_the_run_goes_on(remote: Flakes, plane: FakePlane) -> None:
    ran = remote("run", "hold", "--adapter", "command", "--key", "long", "--timeout-ms", "200")
    assert ran.code == 4
    assert "it goes on" in ran.err
    plane.hold.set()
    assert remote("watch", "long").code == 0
    assert remote("runs", "wait", "long").code == 0


def test_cancelling_is_an_unsuccessful_end(remote: Flakes) -> None:
    remote("run", "hold", "--adapter", "command", "--key", "long", "--detach")
    assert remote("runs", "cancel", "long", "--reason", "enough").code == 0
    ran = remote("runs", "wait", "long")
    assert ran.code == 3
    assert "CANCELLED" in ran.out


def test_interrupting_says_that_the_work_goes_on(plane: FakePlane, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from flakes.cli.main import main; main()",
         "--server", plane.url, "--token", TOKEN, "run", "hold", "--adapter", "command", "--key", "k"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not plane.streams:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(2)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "goes on" in err
    assert "flakes runs cancel k" in err


def test_check_lists_problems_by_line_and_asks_nobody(flakes: Flakes, tmp_path: Path) -> None:
    file = write(tmp_path / "plan.md", PLAN.replace("depends_on: build", "depends_on: biuld"))
    ran = flakes("run", file, "--check")
    assert ran.code == 2
    assert f"{file}:12: " in ran.err
    assert "fix: " in ran.err
    assert not (tmp_path / "data").exists()
    as_json = flakes("run", file, "--check", "--json")
    assert as_json.out == ""
    assert '"error":"workflow_invalid"' in as_json.err
    assert '"line":12' in as_json.err


def test_check_shows_the_graph_of_a_good_file(flakes: Flakes, tmp_path: Path) -> None:
    ran = flakes("run", write(tmp_path / "plan.md"), "--check")
    assert ran.code == 0, ran.err
    assert "2 tasks, 1 edge" in ran.out
    assert flakes("run", str(tmp_path / "plan.md"), "--check", "--json").json["levels"] == [
        ["build"], ["test"],
    ]  # fmt: skip


@pytest.mark.parametrize("mark", ["+++", "---", ""])
def test_variables_from_the_command_line_win_and_lines_stay(
    flakes: Flakes, tmp_path: Path, mark: str
) -> None:
    head = {
        "+++": '+++\nvars = { word = "x" }\n+++\n',
        "---": "---\nvars:\n  word: x\n---\n",
        "": "",
    }[mark]
    text = head + "## a: A\nadapter: command\nrun: echo {{word}}\ndepnds_on: b\n"
    file = write(tmp_path / "plan.md", text)
    ran = flakes("run", file, "--check", "--var", "word=y")
    assert ran.code == 2
    assert f"{file}:{text.count(chr(10))}: " in ran.err
    good = write(tmp_path / "good.md", text.replace("depnds_on: b\n", ""))
    checked = flakes("run", good, "--check", "--var", "word=y", "--json")
    assert checked.json["tasks"][0]["input"] == {"shell": "echo y"}


def test_usage_errors_exit_2_with_a_way_on(flakes: Flakes) -> None:
    ran = flakes("runs", "lst")
    assert ran.code == 2
    assert "flakes runs --help" in ran.err
    assert flakes("rnu", "x").err.startswith("error: No such command 'rnu'. Did you mean 'run'?")
    ran = flakes("runs", "create", "--project", "My Site", "--key", "k", "--name", "n", "--json")
    assert ran.code == 2
    assert "my-site" in ran.err
    assert ran.err.startswith('{"error":"usage"')
    assert flakes("run", "do this").code == 2


def test_without_any_server_the_fix_is_named(flakes: Flakes) -> None:
    ran = flakes("runs", "list", "--json")
    assert ran.code == 2
    assert ran.err.startswith('{"error":"session_not_running"')
    assert "flakes up" in ran.err


def test_a_wrong_token_exits_5(flakes: Flakes, plane: FakePlane) -> None:
    ran = flakes("runs", "list", "--server", plane.url, "--token", "wrong")
    assert ran.code == 5
    assert flakes("runs", "list", "--server", plane.url).code == 5
    assert flakes("auth", "status", "--server", plane.url).code == 5


def test_the_server_and_the_token_have_an_order(
    flakes: Flakes, plane: FakePlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "credential"
    secret.touch(mode=0o600)
    secret.write_text(TOKEN + "\n")
    config = tmp_path / "config" / "flakes" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f'current = "work"\n[profiles.work]\nserver = "{plane.url}/"\ncredentialFile = "{secret}"\n'
    )
    status = flakes("auth", "status", "--json")
    assert status.code == 0, status.err
    assert (status.json["serverSource"], status.json["tokenSource"]) == ("profile", str(secret))
    monkeypatch.setenv("FLAKES_SERVER", "http://127.0.0.1:1")
    # The profile's credential is for the profile's server, and is not sent anywhere else.
    assert flakes("auth", "token").code == 5
    monkeypatch.setenv("FLAKES_TOKEN", "from-environment")
    assert flakes("auth", "token").out == "from-environment\n"
    assert flakes("--token", "outer", "auth", "token").out == "outer\n"
    assert flakes("--token", "outer", "auth", "token", "-t", "inner").out == "inner\n"
    secret.chmod(0o644)
    monkeypatch.delenv("FLAKES_SERVER")
    monkeypatch.delenv("FLAKES_TOKEN")
    ran = flakes("auth", "token")
    assert ran.code == 2
    assert "chmod 600" in ran.err


def test_saving_and_admitting_tasks(remote: Flakes, plane: FakePlane, tmp_path: Path) -> None:
    assert remote("projects", "create", "--key", "site", "--name", "Site").code == 0
    assert remote("runs", "create", "--project", "site", "--key", "r", "--name", "R").code == 0
    body = tmp_path / "brief.md"
    body.write_text("Do it.")
    ran = remote(
        "tasks", "save", "--run", "r", "--key", "draft", "--title", "Draft", "--adapter", "pi",
        "--body-file", str(body), "--required-capability", "pi", "--required-capability", "gpu",
        "--depends-on", "outline", "--acceptance", "it is good", "--tool-grant", "flakes.tasks.spawn",
        "--max-attempts", "3", "--priority", "5", "--optional",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    saved = plane.bodies[-1]
    assert saved["bodyMarkdown"] == "Do it."
    assert saved["requiredCapabilities"] == ["pi", "gpu"]
    assert saved["dependsOn"] == ["outline"]
    assert saved["retry"]["maxAttempts"] == 3
    plane.tasks.clear()
    save = ("tasks", "save", "--run", "r", "--title", "T", "--adapter", "command")
    assert remote(*save, "--key", "a", "--shell", "echo a").code == 0
    assert remote("tasks", "admit", "--run", "r", "a").code == 0
    assert remote("runs", "close", "r", "--wait").code == 0
    assert remote("tasks", "admit", "--run", "r").code == 2
    assert remote(*save, "--key", "b", "--harness-file", "x.py").code == 2
    assert remote(*save, "--key", "b", "--priority", "5000").code == 2


def test_reading_a_task(remote: Flakes, plane: FakePlane) -> None:
    remote("run", "echo one\\ntwo", "--adapter", "command", "--key", "r")
    assert remote("logs", "r/task").out == "one\ntwo\n"
    assert remote("logs", "task_r_task", "--tail", "1").out == "two\n"
    page = remote("logs", "r/task", "--limit", "1", "--json").json
    assert [line["text"] for line in page["logs"]] == ["one"]
    after = remote("logs", "r/task", "--after", page["nextCursor"])
    assert after.out == "two\n"
    assert remote("tasks", "result", "r/task").out == "one\ntwo\n"
    assert remote("tasks", "result", "r/task", "--output", "report").out == "raw\ufffd"
    shown = remote("inspect", "r/task")
    assert "SUCCEEDED" in shown.out
    assert "nothing was verified" in shown.out
    assert remote("inspect", "r", "--json").json["run"]["runKey"] == "r"
    assert "task" in remote("tasks", "list", "r").out
    assert "r" in remote("runs", "list").out
    missing = remote("inspect", "nothing")
    assert (missing.code, "no such run" in missing.err) == (2, True)


def test_following_a_log_ends_with_the_task(remote: Flakes, plane: FakePlane) -> None:
    remote("run", "hold\\nlast", "--adapter", "command", "--key", "r", "--detach")
    plane.hold.set()
    ran = remote("logs", "r/task", "--follow")
    assert ran.out == "hold\nlast\n"
    records = remote("logs", "r/task", "--follow", "--json").out.splitlines()
    assert len(records) == 2


def test_a_task_that_does_not_run_is_explained(remote: Flakes, plane: FakePlane) -> None:
    remote("runs", "create", "--project", "p", "--key", "r", "--name", "R")
    save = ("tasks", "save", "--run", "r", "--title", "T", "--adapter", "command")
    remote(*save, "--key", "a", "--shell", "echo a")
    ran = remote("inspect", "r/a")
    assert "No host is online." in ran.out
    assert "Run `flakes up`." in ran.out
    explained = remote("inspect", "r/a", "--explain", "--json").json
    assert explained["task"]["explanation"]["code"] == "no_host_online"


def test_remote_text_cannot_touch_the_terminal(remote: Flakes, plane: FakePlane) -> None:
    ran = remote("hosts", "list")
    assert "laptop" in ran.out
    assert "\x1b" not in ran.out
    remote("run", "echo \x1b[2J\x1b]0;owned\x07evil", "--adapter", "command", "--key", "r")
    for argv in (("logs", "r/task"), ("inspect", "r/task"), ("watch", "r"), ("tasks", "list", "r")):
        ran = remote(*argv)
        assert ran.code == 0
        assert "\x1b" not in ran.out + ran.err
    # JSON keeps the text, escaped.
    assert "\\u001b" in remote("logs", "r/task", "--json").out


def test_config_examples_are_printed(flakes: Flakes) -> None:
    assert "[[pools]]" in flakes("config", "schema").out
    only = flakes("config", "schema", "server").out
    assert "[listen]" in only
    assert "[[pools]]" not in only


def test_doctor_looks_at_this_machine(flakes: Flakes, tmp_path: Path) -> None:
    ran = flakes("doctor", "--json")
    checks = {check["name"]: check for check in ran.json["checks"]}
    assert checks["python"]["ok"]
    assert checks["git"]["ok"]
    assert checks["postgresql"]["ok"]
    assert checks["session"]["ok"] is None
    assert ran.code == (0 if ran.json["ok"] else 1)


def test_help_imports_no_http_library_and_is_fast() -> None:
    program = (
        "import sys; from flakes.cli.main import run_cli; code = run_cli(['--help']);"
        "heavy = {'httpx2', 'rich', 'psycopg', 'msgspec', 'asyncio', 'starlette'} & set(sys.modules);"
        "sys.exit(repr(heavy) if heavy else code)"
    )
    times = []
    for _ in range(5):
        # Processor time, not the clock's: other tests may keep this machine busy meanwhile.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert ran.returncode == 0, ran.stderr
    assert min(times) < 0.15, times


def test_a_harness_module_goes_along_with_its_task(
    remote: Flakes, plane: FakePlane, tmp_path: Path
) -> None:
    module = tmp_path / "paper-writer.ts"
    module.write_text("export default 1\n")
    save = ("tasks", "save", "--run", "r", "--key", "plan", "--title", "Plan", "--harness-file", str(module))
    grants = ("--tool-grant", "flakes.tasks.spawn", "--tool-grant", "flakes.groups.open")
    assert remote("projects", "create", "--key", "site", "--name", "Site").code == 0
    assert remote("runs", "create", "--project", "site", "--key", "r", "--name", "R").code == 0
    ran = remote(*save, "--adapter", "harness", *grants)
    assert ran.code == 0, ran.err
    saved = plane.bodies[-1]
    assert saved["input"] == {"harnessFile": "paper-writer.ts", "source": "export default 1\n"}
    assert saved["toolGrants"] == ["flakes.tasks.spawn", "flakes.groups.open"]
    module = tmp_path / "plan.py"
    module.write_text("from .helpers import number\n")
    (tmp_path / "helpers.py").write_text("number = 1\n")
    (tmp_path / "defaults.json").write_text('{"agent": {"adapter": "pi"}}')
    more = ("--args", '{"n": 1}', "--defaults", str(tmp_path / "defaults.json"))
    assert remote(*save[:-1], str(module), "--adapter", "harness", *more).code == 0
    saved = plane.bodies[-1]
    assert saved["input"] == {
        "harnessFile": "plan.py", "source": "from .helpers import number\n", "files": {"helpers.py": "number = 1\n"},
        "args": {"n": 1}, "defaults": {"agent": {"adapter": "pi"}},
    }  # fmt: skip
    assert saved["toolGrants"] == ["flakes.tasks.spawn", "flakes.groups"], "what a harness needs"
    assert saved["declaredOutputs"]["result"]["kind"] == "json"
    assert remote(*save[:-1], str(module), "--adapter", "harness", "--args", "{").code == 2
    assert remote(*save, "--adapter", "pi").code == 2
