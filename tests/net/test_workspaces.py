"""A repository's run on two machines: work side by side, a conflict, and a machine that is gone with all its files
after its task has ended and before anything of it was selected. What comes home is all of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.caller import Api
from api.plane import serving
from e2e.stage import FLAKES, Ran, ended, until
from net.machines import Machine
from workspace.theirs import fingerprint, git, repository, write

pytestmark = pytest.mark.timeout(240)

PATIENCE_S = 90.0

PLAN = """+++
[merging]
verify = ["echo test >> $NOTES/tested; until test -e $NOTES/go; do sleep 0.05; done; test -s greeting.txt"]

[merging.resolver]
adapter = "command"
input = { shell = "test \\"$FLAKES_CONFLICTS\\" = greeting.txt && { git show HEAD^1:greeting.txt; git show HEAD^2:greeting.txt; } > both && sort -u both > greeting.txt && rm both" }
+++

## french: Greet in French
run: $BEGIN/french; $ALL; echo bonjour > greeting.txt; ls > seen.log

## german: Greet in German
run: $BEGIN/german; $ALL; echo hallo > greeting.txt

## counting: Count
run: $BEGIN/counting; $ALL; mkdir -p src; echo 'def count(): ...' > src/count.py; rm old.txt; chmod -x tool.sh; git add -A; git commit -qm counted

## last: Hold back what comes after
run: until test -e $NOTES/go; do sleep 0.05; done

## after-french: Go on from that
depends_on: french, last
run: cat greeting.txt

## after-german: Go on from that
depends_on: german, last
run: cat greeting.txt

## after-counting: Go on from that
depends_on: counting, last
run: cat src/count.py; test ! -e old.txt && ls -l tool.sh
"""


@dataclass
class Place:
    """A server, two machines of two slots each, and a user with a command line."""

    api: Api
    machines: list[Machine]
    env: dict[str, str]
    notes: Path
    root: Path

    def flakes(self, *argv: str) -> Ran:
        process = subprocess.Popen(
            [*FLAKES, *argv], cwd=self.root, env=self.env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        return ended(process, PATIENCE_S)

    def tasks(self) -> dict[str, dict[str, object]]:
        found = self.api.get("/v1/runs/greetings/tasks", limit=200).ok()["tasks"]
        return {each["taskKey"]: self.api.task(each["taskId"]) for each in found}

    def machine_of(self, task: dict[str, object]) -> Machine:
        """The one that its newest attempt runs or ran on."""
        sandbox_id = task["attempts"][-1]["sandboxId"]  # type: ignore[index]
        host_id = self.api.get(f"/v1/sandboxes/{sandbox_id}").ok()["hostId"]
        return next(machine for machine in self.machines if machine.host_id == host_id)

    def said(self, task: str) -> str:
        return self.flakes("logs", f"greetings/{task}", "--channel", "stdout").ok().out


@pytest.fixture
def place(tmp_path: Path, database: str) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        (tmp_path / "server").mkdir()
        server = stack.enter_context(serving(tmp_path / "server", database, {
            "leases": {"heartbeatS": 0.5, "suspectAfterS": 2.0, "lostAfterS": 6.0},
        }))  # fmt: skip
        api = server.owner()
        machines: list[Machine] = []
        for name in ("one", "two"):
            machine = Machine(tmp_path / name, api, [server.url], instances=1, concurrency=2)
            machines.append(machine)
            stack.callback(machine.stop)
            machine.start()
        for machine in machines:
            machine.wait_online(api)
        home, notes = tmp_path / "home", tmp_path / "notes"
        for directory in (home, notes, notes / "begun"):
            directory.mkdir()
        env = {name: value for name, value in os.environ.items() if not name.startswith("FLAKES_")} | {
            "FLAKES_SERVER": server.url, "FLAKES_TOKEN": api.token or "", "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"), "FLAKES_DATA_DIR": str(home / "data"),
        }  # fmt: skip
        yield Place(api, machines, env, notes, lived_in(tmp_path / "theirs"))


def lived_in(root: Path) -> Path:
    """A repository as one finds it at work: with history, a branch, a stash, staged and other changes."""
    repository(
        root, greeting_txt="hello\n", old_txt="old\n", keep_txt="kept\n", _gitignore="*.log\n", tool_sh="#!/bin/sh\n"
    )
    git(root, "branch", "other")
    write(root, keep_txt="put away\n")
    git(root, "stash")
    (root / "tool.sh").chmod(0o755)
    write(root, staged_txt="staged\n", draft_txt="not committed\n", my_log="ignored\n")
    git(root, "add", "staged.txt")
    (root / "link").symlink_to("keep.txt")
    return root


def test_parallel_work_on_two_machines_comes_home_though_one_is_gone(place: Place) -> None:
    before = fingerprint(place.root)
    plan = place.notes / "plan.md"
    begun = place.notes / "begun"
    plan.write_text(
        PLAN.replace("$BEGIN", f"touch {begun}")
        .replace("$ALL", f"until test $(ls {begun} | wc -l) = 3; do sleep 0.05; done")
        .replace("$NOTES", str(place.notes))
    )
    place.flakes("run", str(plan), "--key", "greetings", "--detach").ok()
    until(lambda: (place.notes / "tested").exists(), PATIENCE_S, "the first to be tested")
    until(
        lambda: all(place.tasks()[key]["status"] == "SUCCEEDED" for key in ("french", "german", "counting")),
        PATIENCE_S, "all three to end",
    )  # fmt: skip
    tasks = place.tasks()
    ran_on = {key: place.machine_of(tasks[key]) for key in ("french", "german", "counting")}
    assert {machine.host_id for machine in ran_on.values()} == {each.host_id for each in place.machines}
    refs = place.api.get("/v1/runs/greetings/workspaces").ok()["refs"]
    assert [ref["version"] for ref in refs] == [1], "nothing is selected yet"

    # The machine that does not test is gone, with every byte that it had.
    (test,) = [task for key, task in tasks.items() if key.startswith("test-")]
    (dead,) = [machine for machine in place.machines if machine is not place.machine_of(test)]
    homeless = [key for key, machine in ran_on.items() if machine is dead]
    assert homeless
    dead.lose_power()
    shutil.rmtree(dead.directory)
    assert fingerprint(place.root) == before
    (place.notes / "go").touch()
    until(lambda: place.api.get("/v1/runs/greetings").ok().get("completedAt"), PATIENCE_S, "the end")

    assert place.api.get("/v1/runs/greetings").ok()["state"] == "SUCCEEDED"
    tasks = place.tasks()
    for key in ("french", "german", "counting"):
        assert [each["state"] for each in tasks[key]["attempts"]] == ["succeeded"], "nothing was done twice"  # type: ignore[index]
    said = {key: place.said(f"after-{key}") for key in ran_on}
    assert (said["french"], said["german"]) == ("bonjour\n", "hallo\n")
    assert said["counting"].startswith("def count(): ...\n-rw-")
    for key in homeless:
        assert place.machine_of(tasks[f"after-{key}"]) is not dead
    assert [key for key in tasks if key.startswith("resolve-")] in (["resolve-french"], ["resolve-german"])

    found = place.flakes("diff", "greetings", "--json").ok().json
    assert sorted(each["path"] for each in found["files"]) == ["greeting.txt", "old.txt", "src/count.py", "tool.sh"]
    assert fingerprint(place.root) == before, "nothing of the user's was touched"
    place.flakes("apply", "greetings").ok()
    after = fingerprint(place.root)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed == {"greeting.txt", "old.txt", "src/count.py", "tool.sh"}
    assert files(place.root) == {
        ".gitignore": "*.log\n", "draft.txt": "not committed\n", "greeting.txt": "bonjour\nhallo\n",
        "keep.txt": "kept\n", "link": "kept\n", "my.log": "ignored\n", "src/count.py": "def count(): ...\n",
        "staged.txt": "staged\n", "tool.sh": "#!/bin/sh\n",
    }  # fmt: skip
    assert not os.access(place.root / "tool.sh", os.X_OK)


WAITS = """
echo attempt $(cat half.txt 2>/dev/null) from $(git rev-parse --short HEAD)
echo more >> half.txt; rm -f old.txt; echo ignored > made.log; chmod +x tool.sh
flakes wait --signal go --hold 0 > /dev/null || exit $?
ls; git status --porcelain
"""


def test_a_task_that_waited_goes_on_with_its_edits_on_another_machine(place: Place) -> None:
    line = {"taskKey": "only", "title": "only", "adapter": "command", "input": {"shell": WAITS}}
    begun = place.flakes("run", "true", "--adapter", "command", "--key", "first").ok()
    assert "files from" in begun.err
    workspace_id = place.api.get("/v1/runs/first").ok()["workspaceId"]
    made = place.api.graph(line, key="greetings", workspaceId=workspace_id, close=True)
    task_id = made["tasks"][0]["taskId"]
    until(lambda: place.api.task(task_id)["status"] == "WAITING", PATIENCE_S, "the task to wait")
    before = place.machine_of(place.api.task(task_id))
    before.lose_power()
    shutil.rmtree(before.directory)
    place.flakes("tasks", "signal", task_id, "go").ok()
    until(lambda: place.api.get("/v1/runs/greetings").ok().get("completedAt"), PATIENCE_S, "the end")
    found = place.api.task(task_id)
    assert [each["state"] for each in found["attempts"]] == ["yielded", "succeeded"]
    assert place.machine_of(found) is not before
    first, second, *listed = place.said("only").splitlines()
    assert first.split()[:2] == ["attempt", "from"], "the first one found its beginning"
    assert second.split() == ["attempt", "more", *first.split()[1:]]
    assert listed == [
        "draft.txt", "greeting.txt", "half.txt", "keep.txt", "link", "made.log", "staged.txt", "tool.sh",
        " D old.txt", "?? half.txt",
    ]  # fmt: skip
    place.flakes("apply", "greetings/only").ok()
    assert (place.root / "half.txt").read_text() == "more\nmore\n"
    assert not (place.root / "old.txt").exists()


def files(root: Path) -> dict[str, str]:
    """The work tree: every file's text."""
    return {
        str(path.relative_to(root)): path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(root).parts
    }
