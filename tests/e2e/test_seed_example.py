"""The life of two tasks from outside: the reference's example typed command by command, and every line it prints.

The `command` adapter does the work, which any machine has. The commands for harness modules are left out: there is no
harness adapter that could take one.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from e2e.stage import Stage
from e2e.transcript import matches, play, typing

pytestmark = pytest.mark.timeout(120)

SURROUNDINGS = r"""
$ flakes auth status
server   http://127.0.0.1:...  (from session)
token    local session
user     owner  user_...
version  ...
signed in
$ flakes config schema server
...
[listen]
...
$ flakes config schema sandbox
...
sandboxId = ...
...
$ flakes server --config server.toml --host 127.0.0.1 --port 7733 --dry-run
{
...
"port": 7733,
...
}
$ flakes down --session flakes --dry-run --json
{
  "session": "flakes",
  "dryRun": true,
  "stopped": false,
  "processes": []
}
"""

PREPARED = r"""
$ flakes projects create --key alpha --name "Alpha"
active  alpha  project_...  Alpha
$ flakes projects create --key alpha --name "Alpha"
active  alpha  project_...  Alpha
$ flakes projects create --key alpha --name "Another"  # exits 2
! error: project 'alpha' exists with another name or metadata
! fix: choose another key, or change the project with PATCH
$ flakes projects list
STATUS  KEY    CREATED  NAME
active  alpha  ... ago  Alpha
$ flakes runs create --project alpha --key release-notes --name "Draft release notes"
· CREATED  release-notes  run_...  no tasks  (open)
$ flakes runs create --project alpha --key release-notes --name "Draft release notes" --token {token}
· CREATED  release-notes  run_...  no tasks  (open)
$ flakes runs create --project alpha --key release-notes --name "Something else"  # exits 2
! error: run 'release-notes' exists with another name, project, metadata, budget or workspace
! fix: choose another run key, or send what created it
$ flakes tasks save \
 --run release-notes \
 --key draft \
 --title "Draft release notes" \
 --adapter command \
 --shell "until [ -e {mark} ]; do sleep 0.02; done; flakes tasks files reserve notes.md --reason editing; echo reading; echo drafted" \
 --body "Read the shipped changes and draft concise release notes for users." \
 --acceptance "Notes describe user-visible changes" \
 --acceptance "Open questions are listed at the end" \
 --required-capability command
· SAVED  draft  task_...
$ flakes tasks save \
 --run release-notes \
 --key review \
 --title "Review" \
 --adapter command \
 --shell "echo reviewed" \
 --depends-on draft
· SAVED  review  task_...
$ flakes tasks save \
 --run release-notes \
 --key review \
 --title "Review release notes" \
 --adapter command \
 --shell "echo reviewed" \
 --body-file prompt.md \
 --depends-on draft \
 --acceptance "Review comments are actionable" \
 --required-capability command \
 -t {token}
· SAVED  review  task_...
$ flakes tasks save --run release-notes --key plan --title Plan --adapter command --harness-file prompt.md  # exits 2
! error: --harness-file requires --adapter harness
! fix: see `flakes tasks save --help`
$ flakes inspect release-notes
· CREATED  (open: more tasks may come)
run      release-notes run_...
name     Draft release notes
project  alpha
created  ..., ... ago
tasks    2 saved
STATUS   KEY     TITLE                 ADAPTER  ATTEMPT  TOOK
· SAVED  draft   Draft release notes   command  1        -
· SAVED  review  Review release notes  command  1        -
$ flakes tasks admit --run release-notes review  # exits 2
! error: task 'review' depends on 'draft', which is not admitted
! fix: admit 'draft' too
"""

ADMITTED = r"""
$ flakes tasks admit --run release-notes draft
○ QUEUED  draft  {draft}
$ flakes tasks admit --run release-notes --all --token {token}
◌ BLOCKED  review  {review}
"""

CLOSED = r"""
$ flakes runs close release-notes --wait --timeout-ms 600000 --token {token}
✔ SUCCEEDED  release-notes  {run}  2 succeeded
"""

ENDED = r"""
$ flakes runs close release-notes
✔ SUCCEEDED  release-notes  {run}  2 succeeded
$ flakes runs close release-notes --token wrong  # exits 5
! error: no valid credential
! fix: ...
$ flakes tasks save --run release-notes --key draft --title Late --adapter command --shell true  # exits 2
! error: ...
! fix: ...
$ flakes inspect release-notes --token wrong  # exits 5
! error: no valid credential
! fix: ...
$ flakes inspect {run} --token {token}
✔ SUCCEEDED
run        release-notes {run}
name       Draft release notes
project    alpha
created    ..., ... ago
completed  ..., after ...
tasks      2 succeeded
STATUS       KEY     TITLE                 ADAPTER  ATTEMPT  TOOK
✔ SUCCEEDED  draft   Draft release notes   command  1        ...
✔ SUCCEEDED  review  Review release notes  command  1        ...
$ flakes inspect {review} --task
✔ SUCCEEDED
task        release-notes/review {review}
title       Review release notes
adapter     command
input       echo reviewed
depends on  draft
needs       command
created     ...
started     ...
finished    ...
ATTEMPT  STATE      BEGUN  TOOK  SANDBOX
1        succeeded  ...    ...   sandbox_...
result  claimed, nothing was verified, exit code 0
reviewed
$ flakes logs {draft} --limit 2 --token {token}
exact notes.md editing
reading
! go on with --after {cursor}
$ flakes logs {draft} --after {cursor} --limit 10
drafted
$ flakes logs {draft} -t wrong  # exits 5
! error: no valid credential
! fix: ...
$ flakes metrics {run} -t {token}
✔ SUCCEEDED  release-notes  {run}
wall time  ...
success    100.0% of 2 tasks: 2 succeeded, 0 failed, 0 cancelled, 0 live
attempts   2, 0 of them retries
lost       0 to infrastructure, 0 declined, 0 not taken
parallel   ... on average, 1 at most
TIME        COUNT  MEAN  P50  P90  P99  MAX
queue       2      ...   ready to offered
assignment  2      ...   offered to accepted
run         2      ...   accepted to ended
wait        0      - - - - - asked to answered
$ flakes tasks result release-notes/draft
...
drafted
$ flakes runs reservations release-notes
PATH KIND TASK SINCE REASON
"""

WORKPAD = r"""
$ flakes tasks workpad show {draft}
{
  "taskId": "...",
  "version": 0,
  "bodyMarkdown": ""
}
$ flakes tasks workpad template {draft} --output workpad.md
! save it: flakes tasks workpad save {draft} --file workpad.md --base-version 0
$ flakes tasks workpad template {draft} -o workpad.md  # exits 2
! error: workpad.md exists; --force overwrites it
! fix: see `flakes tasks workpad template --help`
$ flakes tasks workpad save {draft} --file workpad.md --base-version 0
version 1  {draft}
$ flakes tasks workpad save {draft} -f prompt.md --base-version 0  # exits 2
! error: ...
! fix: see it with `flakes tasks workpad show {draft} --raw`, merge, and save with --base-version 1
$ flakes tasks workpad save {draft} -f prompt.md --base-version 1
version 2  {draft}
$ flakes tasks workpad show {draft} --raw
Review the draft for accuracy, missing risks, and unclear wording.
$ flakes tasks workpad show {draft} --raw --version 1
# Draft release notes
## Plan
## Progress
## Findings
## Handoff
$ flakes tasks workpad pull  # exits 2
! error: `flakes tasks workpad pull` works inside a running task only
! fix: ...
$ flakes tasks workpad push  # exits 2
! error: `flakes tasks workpad push` works inside a running task only
! fix: ...
$ flakes tasks files release --all  # exits 2
! error: `flakes tasks files release` works inside a running task only
! fix: ...
"""

ARTIFACTS = r"""
$ flakes artifacts create --file artifact.json
artifact_...  report  6 B  notes.md
$ flakes artifacts create -f artifact.json --token {token}
artifact_...  report  6 B  notes.md
$ flakes artifacts get {artifact} --token wrong  # exits 5
! error: no valid credential
! fix: ...
$ flakes artifacts get {artifact}
{artifact}  report  6 B  notes.md
media type  text/markdown
digest      sha256:444e0fffbd825e9610ff5b199485707a0c895339ae80c15cc8a8aee41b106fda
run         {run}
created     ... ago
location    {location} (directory)
$ flakes artifacts fetch {artifact} --location-id {location} --output notes.md
notes.md  6 B  sha256:444e0fffbd825e9610ff5b199485707a0c895339ae80c15cc8a8aee41b106fda
$ flakes artifacts fetch {artifact} -o again.md -t {token}
again.md  6 B  sha256:444e0fffbd825e9610ff5b199485707a0c895339ae80c15cc8a8aee41b106fda
$ flakes artifacts fetch {artifact} --raw
notes
$ flakes artifacts fetch {artifact} --raw --location-id elsewhere  # exits 2
! error: ...
! fix: ...
"""

ARCHIVED = r"""
$ flakes projects archive alpha
archived  alpha  project_...  Alpha
$ flakes runs create --project alpha --key another --name "Another"  # exits 2
! error: project 'alpha' is archived
! fix: use another project
$ flakes projects list
STATUS    KEY    CREATED  NAME
archived  alpha  ... ago  Alpha
$ flakes inspect release-notes --json
...
$ flakes runs delete release-notes
deleted release-notes
"""

INSIDE = """\
set -e
flakes tasks workpad pull
printf 'found it\\n' > "$FLAKES_STATE_DIR/workpad.md"
flakes tasks workpad push
flakes tasks files reserve src/a.py src/b.py --reason "editing" --json > reserved.json
flakes tasks files reserve docs --prefix --json > prefix.json
flakes tasks files check src/a.py other.py --json > check.json
flakes tasks files check docs --prefix --json > check_prefix.json
flakes tasks files list --json > list.json
flakes tasks files release src/a.py --json > one.json
flakes tasks files release docs --prefix --json > two.json
flakes tasks files release --all --json > all.json
flakes tasks files list --json > none.json
cat reserved.json prefix.json check.json check_prefix.json list.json one.json two.json all.json none.json
"""


TRANSCRIPTS = (SURROUNDINGS, PREPARED, ADMITTED, CLOSED, ENDED, WORKPAD, ARTIFACTS, ARCHIVED)


def test_the_example_works_as_it_is_typed(session: Stage) -> None:
    (session.scratch / "prompt.md").write_text(
        "Review the draft for accuracy, missing risks, and unclear wording.\n"
    )
    (session.scratch / "server.toml").write_text("")
    mark = session.scratch / "go"
    names = {"token": typing(session, "flakes auth token").ok().out.strip(), "mark": str(mark)}
    play(session, SURROUNDINGS, names)
    play(session, PREPARED, names)
    shown = typing(session, "flakes inspect release-notes --json").ok().json
    names |= {task["taskKey"]: task["taskId"] for task in shown["tasks"]}
    names["run"] = shown["run"]["runId"]
    definition = (
        typing(session, f"flakes inspect {names['review']} --json").ok().json["task"]["definition"]
    )
    assert definition["bodyMarkdown"] == (session.scratch / "prompt.md").read_text()
    assert definition["acceptance"] == ["Review comments are actionable"]

    play(session, ADMITTED, names)
    mark.touch()
    play(session, CLOSED, names)
    names["cursor"] = (
        typing(session, f"flakes logs {names['draft']} --limit 2 --json").ok().json["nextCursor"]
    )
    play(session, ENDED, names)
    play(session, WORKPAD, names)

    artifact = {
        "kind": "report", "name": "notes.md", "mediaType": "text/markdown", "bytesBase64": "bm90ZXMK",
        "runId": names["run"],
    }  # fmt: skip
    (session.scratch / "artifact.json").write_text(json.dumps(artifact))
    made = typing(session, "flakes artifacts create --file artifact.json --json").ok().json
    names |= {"artifact": made["artifactId"], "location": made["locations"][0]["locationId"]}
    play(session, ARTIFACTS, names)
    assert (session.scratch / "notes.md").read_bytes() == b"notes\n"
    play(session, ARCHIVED, names)


def test_the_commands_inside_a_task_work_as_they_are_typed(session: Stage) -> None:
    script = session.scratch / "inside.sh"
    script.write_text(INSIDE)
    typing(session, "flakes projects create --key inside --name Inside").ok()
    typing(session, "flakes runs create --project inside --key tools --name Tools").ok()
    typing(
        session,
        f"flakes tasks save --run tools --key use --title Use --adapter command --shell 'sh {script}'",
    ).ok()
    typing(session, "flakes tasks admit --run tools use").ok()
    closed = typing(session, "flakes runs close tools --wait --timeout-ms 60000")
    logged = typing(session, "flakes logs tools/use").out
    assert closed.code == 0, logged
    reserved, prefix, check, check_prefix, listed, one, two, rest, none = _documents(logged)
    assert [r["path"] for r in reserved["reservations"]] == ["src/a.py", "src/b.py"]
    assert {r["reason"] for r in reserved["reservations"]} == {"editing"}
    assert [(r["path"], r["kind"]) for r in prefix["reservations"]] == [("docs", "prefix")]
    assert check["conflicts"] == check_prefix["conflicts"] == []
    assert [r["path"] for r in listed["reservations"]] == ["docs", "src/a.py", "src/b.py"]
    released = [[r["path"] for r in each["released"]] for each in (one, two, rest)]
    assert released == [["src/a.py"], ["docs"], ["src/b.py"]]
    assert none["reservations"] == []
    assert typing(session, "flakes tasks workpad show tools/use --raw").ok().out == "found it\n"


def test_what_a_transcript_means() -> None:
    assert matches(["a  b", "c", "d"], ["a b", "..."])
    assert matches(["x 1 y", "z"], ["x ... y", "z"])
    assert not matches(["x 1 y", "z"], ["x ... y"])
    assert not matches(["q"], ["x ..."])
    assert not matches([], ["x"])


def _documents(text: str) -> list[dict[str, Any]]:
    """The JSON documents in a text, one after the other, whatever stands between them."""
    found = []
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        document, end = decoder.raw_decode(text, at)
        found.append(document)
        at = text.find("{", end)
    return found
