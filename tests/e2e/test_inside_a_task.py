"""The tools of a task in a real session: the guide's example, the workpad from both sides, reservations."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from e2e.stage import CHECKOUT, Stage, until

pytestmark = pytest.mark.timeout(90)

GUIDE = CHECKOUT / "docs" / "guide" / "inside-a-task.md"


def test_the_example_of_the_guide_runs(session: Stage) -> None:
    plan, artifacts, children = re.findall(r"^```markdown run\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
    file = session.scratch / "plan.md"
    file.write_text(plan)
    ran = session.flakes("run", str(file), "--key", "guide")
    assert ran.code == 0, ran.out + ran.err
    raw = session.flakes("tasks", "workpad", "show", "guide/parser", "--raw").ok().out
    assert raw == "# Parser\n\n- split into two modules\n"
    shown = session.flakes("tasks", "workpad", "show", "guide/parser").ok().json
    assert (shown["version"], shown["author"]["kind"]) == (1, "assignment")
    reserved = session.flakes("tasks", "result", "guide/docs", "--output", "reserved").ok().json
    assert [r["path"] for r in reserved["reservations"]] == ["docs/parser.md"]
    listed = session.flakes("tasks", "list", "guide", "--json").ok().json["tasks"]
    assert {t["taskKey"]: t["workpad"]["version"] for t in listed} == {"parser": 1, "docs": 0}
    assert "version 1" in session.flakes("inspect", "guide/parser").ok().out
    assert session.flakes("runs", "reservations", "guide", "--json").ok().json["reservations"] == []
    file.write_text(artifacts)
    ran = session.flakes("run", str(file), "--key", "makes")
    assert ran.code == 0, ran.out + ran.err
    assert session.flakes("tasks", "result", "makes/use").ok().out.split()[-1] == "5000000"
    file.write_text(children)
    ran = session.flakes("run", str(file), "--key", "tries")
    assert ran.code == 0, ran.out + ran.err
    assert session.flakes("tasks", "result", "tries/compare", "--output", "sizes").ok().out == "1\n2\n3\n"
    (made,) = session.flakes("artifacts", "list", "--run", "makes", "--json").ok().json["artifacts"]
    assert (made["kind"], made["name"], made["state"], made["sizeBytes"]) == ("model", "model.bin", "ready", 5_000_000)


def test_artifacts_of_every_form_and_what_is_refused(session: Stage) -> None:
    content = session.scratch / "small.bin"
    content.write_bytes(bytes(range(256)))
    described = session.scratch / "note.json"
    described.write_text('{"kind": "note", "name": "n", "bytesBase64": "aGVsbG8K", "metadata": {"a": 1}}')
    foreign = session.flakes("artifacts", "upload", str(content), "--json").ok().json["artifactId"]
    line = f"""
        note=$(flakes artifacts create -f {described}); flakes artifacts fetch $note
        empty=$(flakes artifacts create /dev/null --name nothing); flakes artifacts fetch $empty | wc -c
        flakes artifacts create {content} --json > made.json
        id=$(sed 's/.*"artifactId": "\\([^"]*\\)".*/\\1/' made.json)
        flakes artifacts fetch $id --raw | cmp - {content} && echo same
        flakes artifacts fetch $id -o copy --json | grep -c '"path": "copy"'; cmp copy {content} && echo same
        flakes artifacts fetch {foreign} -o copy2; echo foreign $?; ls copy2*
        flakes artifacts create; echo $?; flakes artifacts create nowhere; echo $?; flakes artifacts fetch; echo $?
    """
    session.submit("forms", [{"taskKey": "t", "input": {"shell": line}}])
    session.wait("forms")
    out = session.flakes("logs", "forms/t", "--channel", "stdout").ok().out.split("\n")
    assert out[:-1] == ["hello", "0", "same", "1", "same", "foreign 2", "2", "1", "2"], out
    err = session.flakes("logs", "forms/t", "--channel", "stderr").ok().out
    assert "no such artifact" in err
    listed = session.flakes("artifacts", "list", "--run", "forms", "--json").ok().json["artifacts"]
    assert {(a["kind"], a["name"], a["sizeBytes"]) for a in listed} == {
        ("note", "n", 6), ("file", "nothing", 0), ("file", "small.bin", 256),
    }  # fmt: skip


def test_a_person_and_a_task_write_the_same_workpad(session: Stage) -> None:
    """The task pulls, a person saves, the task's push is refused, it merges, and its push is taken."""
    mark = session.scratch / "go"
    line = (
        'cd "$FLAKES_STATE_DIR"; flakes tasks workpad pull; echo pulled >&2;'
        f" until [ -e {mark} ]; do sleep 0.02; done;"
        " echo mine >> workpad.md; flakes tasks workpad push; echo first $?;"
        " cat workpad.current.md >> workpad.md; flakes tasks workpad push --base-version 2; echo second $?"
    )
    session.submit("shared", [{"taskKey": "t", "input": {"shell": line}}])
    first = session.scratch / "first.md"
    until(lambda: "pulled" in session.flakes("logs", "shared/t").out, 30, "the pull")
    template = session.flakes("tasks", "workpad", "template", "shared/t", "-o", str(first)).ok()
    assert "--base-version 0" in template.err
    assert first.read_text().startswith("# t\n\n## Plan\n")
    saved = session.flakes("tasks", "workpad", "save", "shared/t", "-f", str(first), "--base-version", "0")
    assert saved.ok().out.startswith("version 1")
    first.write_text("theirs\n")
    session.flakes("tasks", "workpad", "save", "shared/t", "-f", str(first), "--base-version", "1").ok()
    stale = session.flakes("tasks", "workpad", "save", "shared/t", "-f", str(first), "--base-version", "1")
    assert stale.code == 0, "the same save again is the same version"
    first.write_text("late\n")
    late = session.flakes("tasks", "workpad", "save", "shared/t", "-f", str(first), "--base-version", "1")
    assert late.code == 2
    assert "--base-version 2" in late.err
    mark.touch()
    assert session.wait("shared").state == "SUCCEEDED"
    result = session.flakes("tasks", "result", "shared/t").ok().out
    assert "first 2" in result
    assert "second 0" in result
    raw = session.flakes("tasks", "workpad", "show", "shared/t", "--raw").ok().out
    assert raw.endswith("mine\ntheirs\n")
    past = session.flakes("tasks", "workpad", "show", "shared/t", "--raw", "--version", "2").ok()
    assert past.out == "theirs\n"
    versions = session.flakes("tasks", "workpad", "versions", "shared/t", "--json").ok().json["versions"]
    assert [(v["version"], v["author"]["kind"]) for v in versions] == [(3, "assignment"), (2, "user"), (1, "user")]
    refused = session.flakes("tasks", "workpad", "template", "shared/t", "--output", str(first))
    assert (refused.code, "--force" in refused.err) == (2, True)


def test_tasks_of_a_run_meet_each_others_reservations(session: Stage) -> None:
    mark = session.scratch / "released"
    hold = (
        "flakes tasks files reserve src --prefix --reason 'moving it' && echo held &&"
        f" until [ -e {mark} ]; do sleep 0.02; done"
    )
    meet = (
        "until ! flakes tasks files check src/a.py >/dev/null; do sleep 0.05; done;"
        " flakes tasks files reserve src/a.py --json; echo exit $?;"
        f" touch {mark}; until flakes tasks files reserve src/a.py; do sleep 0.05; done"
    )
    session.submit("meet", [
        {"taskKey": "holder", "input": {"shell": hold}}, {"taskKey": "other", "input": {"shell": meet}},
    ])  # fmt: skip
    assert session.wait("meet").state == "SUCCEEDED", session.logs()
    logged = session.flakes("logs", "meet/other").ok().out
    assert '"file_reservation_conflict"' in logged
    assert '"moving it"' in logged
    assert session.flakes("tasks", "result", "meet/other").ok().out == "exit 2\nexact\tsrc/a.py\n"


def test_the_socket_of_a_task_is_gone_when_the_task_has_ended(session: Stage) -> None:
    session.submit("look", [{"taskKey": "t", "input": {"shell": "dirname $FLAKES_TOOL_SOCKET"}}])
    session.wait("look")
    directory = Path(session.flakes("tasks", "result", "look/t").ok().out.strip())
    assert not directory.exists()


def test_an_ordinary_command_line_refuses_outside_a_task_and_works_inside(session: Stage) -> None:
    for command in (
        ("workpad", "pull"), ("workpad", "push"), ("files", "reserve", "a"), ("files", "release", "--all"),
        ("files", "list"), ("files", "check", "a"),
    ):  # fmt: skip
        ran = session.flakes("tasks", *command, "--json")
        assert (ran.code, ran.out) == (2, "")
        assert '"outside_task"' in ran.err
        assert "inside a running task only" in session.flakes("tasks", *command).err
    whole = f"{session.env['PATH'].split(os.pathsep)[0]}/python -P -c 'from flakes.cli.main import main; main()'"
    line = f"PYTHONPATH={os.environ.get('PYTHONPATH', '')} {whole} tasks files reserve --reason why -- -odd x"
    session.submit("whole", [{"taskKey": "t", "input": {"shell": line}}])
    assert session.wait("whole").state == "SUCCEEDED"
    assert session.flakes("tasks", "result", "whole/t").ok().out == "exact\t-odd\twhy\nexact\tx\twhy\n"
