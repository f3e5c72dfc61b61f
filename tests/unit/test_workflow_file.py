"""The workflow file: what it means, what is refused and where, and what no text can make it do."""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flakes.core.limits import ADMISSION_TASKS_MAX, TASK_BODY_SIZE_BYTES_MAX
from flakes.core.suggestion import closest, did_you_mean
from flakes.core.workflow_directives import DIRECTIVES
from flakes.core.workflow_file import (
    OutputDeclaration,
    Problem,
    RetryPolicy,
    Workflow,
    WorkflowBudget,
    WorkflowFileError,
    parse,
    to_definitions,
)
from flakes.core.workflow_frontmatter import FRONTMATTER_KEYS

Refusal = tuple[Problem, ...]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "workflow-file.md"


def workflow(text: str) -> Workflow:
    return parse(textwrap.dedent(text), load_yaml=yaml.safe_load)


def read(text: str, load_yaml: Callable[[str], object] | None = None) -> Workflow | Refusal:
    try:
        return parse(text, load_yaml=load_yaml)
    except WorkflowFileError as error:
        return error.problems


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(WorkflowFileError) as refusal:
        workflow(text)
    return refusal.value.problems


def places(text: str) -> list[tuple[int, str]]:
    return [(problem.line, problem.code) for problem in problems(text)]


def one_task(directives: str, body: str = "") -> str:
    """A file of one task (lines 1 and on) that has adapter pi unless it says otherwise."""
    return f"## a: A\n{textwrap.dedent(directives).strip()}\n\n{body}\n"


# What a file means


def test_a_heading_and_a_brief_are_a_task() -> None:
    found = workflow(
        """\
        +++
        adapter = "pi"
        +++
        # The plan #

        Why.

        ## fix-login: Fix: the login page

        Do it.

        ### Details

        - well

        """
    )
    (task,) = found.tasks
    assert (found.title, found.intro) == ("The plan", "Why.")
    assert (task.key, task.title, task.line) == ("fix-login", "Fix: the login page", 8)
    assert task.body == "Do it.\n\n### Details\n\n- well"
    assert to_definitions(found) == [
        {
            "taskKey": "fix-login",
            "title": "Fix: the login page",
            "bodyMarkdown": task.body,
            "adapter": "pi",
        }
    ]


def test_every_directive_reaches_the_definition() -> None:
    found = workflow(
        """\
        ## before: First
        run: true

        ## a: A
        depends_on: before
        adapter: claude
        model: anthropic/opus-4.1
        effort: high
        acceptance: one, and a comma
        acceptance: two
          and more
        capabilities: [node, "mac"]
        grants: flakes.tasks.spawn
        retry: 3 backoff=500ms, max = 1m
        timeout: 1.5h
        on_failure: continue
        optional: true
        priority: -7
        outputs: report, stats json, change workspace optional
        budget: children=4, tokens=200_000 cost_usd=$1.5 wall=30m
        verify: make lint
        verify: for part in a b; do
            make $part
          done
        permission: readOnly

        The brief.
        """
    )
    assert to_definitions(found)[1] == {
        "taskKey": "a",
        "title": "A",
        "bodyMarkdown": "The brief.",
        "acceptance": ["one, and a comma", "two and more"],
        "adapter": "claude",
        "dependsOn": ["before"],
        "dependencyFailurePolicy": "continue",
        "requiredCapabilities": ["node", "mac"],
        "toolGrants": ["flakes.tasks.spawn"],
        "priority": -7,
        "retry": {"maxAttempts": 3, "backoffS": 0.5, "maxBackoffS": 60},
        "timeoutS": 5400,
        "optional": True,
        "declaredOutputs": {
            "report": {"kind": "text", "required": True},
            "stats": {"kind": "json", "required": True},
            "change": {"kind": "workspace", "required": False},
        },
        "budget": {
            "children": 4,
            "tokens": 200_000,
            "costMicroUsd": 1_500_000,
            "wallMs": 1_800_000,
        },
        "model": "anthropic/opus-4.1",
        "effort": "high",
        "permissionMode": "readOnly",
        "verify": ["make lint", "for part in a b; do\n  make $part\ndone"],
    }
    json.dumps(to_definitions(found))


def test_a_harness_keeps_its_paths_and_arguments() -> None:
    found = workflow(
        """\
        ## a: A
        adapter: harness
        harness_file: h/one.py
        args: {"depth": 2,
          "deep": [{"x": null}]}

        ## b: B
        adapter: harness
        harness_file: h/one.py
        args_file: args.json
        """
    )
    assert [each["input"] for each in to_definitions(found)] == [
        {"harnessFile": "h/one.py", "args": {"depth": 2, "deep": [{"x": None}]}},
        {"harnessFile": "h/one.py", "argsFile": "args.json"},
    ]


def test_defaults_of_the_frontmatter_reach_the_tasks_they_are_for() -> None:
    found = workflow(
        """\
        +++
        adapter = "claude"
        model = "opus"
        capabilities = ["node", "mac"]
        +++
        ## plain: A

        ## other: B
        adapter: codex
        capabilities: gpu

        ## command: C
        run: make
        capabilities: []

        ## own: D
        model: haiku
        """
    )
    assert [(task.adapter, task.model, task.capabilities) for task in found.tasks] == [
        ("claude", "opus", ("node", "mac")),
        ("codex", None, ("gpu",)),
        ("command", None, ()),
        ("claude", "haiku", ("node", "mac")),
    ]
    assert to_definitions(found)[2]["input"] == {"shell": "make"}


def test_a_default_model_without_a_default_adapter_is_for_every_agent() -> None:
    found = workflow('+++\nmodel = "m"\n+++\n## a: A\nadapter: pi\n\n## b: B\nrun: x\n')
    assert [task.model for task in found.tasks] == ["m", None]


def test_the_caller_may_name_the_adapter_that_the_file_does_not() -> None:
    assert parse("## a: A\n", default_adapter="pi").tasks[0].adapter == "pi"
    text = '+++\nadapter = "codex"\n+++\n## a: A\n'
    assert parse(text, default_adapter="pi").tasks[0].adapter == "codex"


@pytest.mark.parametrize(
    "frontmatter",
    [
        """\
        +++
        project = "site"
        runKey = "k-1"
        runName = "A name"
        adapter = "pi"
        model = "m"
        capabilities = ["a", "b"]
        [budget]
        tokens = 5
        wallMs = 7
        [vars]
        name = "x"
        count = 3
        flag = true
        +++
        """,
        """\
        ---
        project: site
        runKey: k-1
        runName: A name
        adapter: pi
        model: m
        capabilities: a, b
        budget: tokens=5 wall_ms=7
        vars:
          name: x
          count: 3
          flag: true
        ---
        """,
    ],
    ids=["toml", "yaml"],
)
@pytest.mark.parametrize("prefix", ["", "\ufeff", "\n\n"])
def test_toml_and_yaml_say_the_same(frontmatter: str, prefix: str) -> None:
    found = workflow(prefix + textwrap.dedent(frontmatter) + "## a: {{ name }} {{ flag }}\n")
    assert (found.project, found.run_key, found.run_name) == ("site", "k-1", "A name")
    assert (found.adapter, found.model, found.capabilities) == ("pi", "m", ("a", "b"))
    assert found.budget == WorkflowBudget(tokens=5, wall_ms=7)
    assert found.vars == {"name": "x", "count": "3", "flag": "true"}
    assert found.tasks[0].title == "x true"


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_line_endings_make_no_difference(ending: str) -> None:
    text = '+++\nadapter = "pi"\n+++\n## a: A\noptional: true\n\nBody\nmore\n'
    (task,) = parse(text.replace("\n", ending)).tasks
    assert (task.line, task.optional, task.body) == (4, True, "Body\nmore")


def test_headings_in_code_blocks_are_no_tasks() -> None:
    found = workflow(
        """\
        ~~~
        ## zero: In the introduction
        ~~~
        ## a: A
        adapter: pi

        ````md
        ## b: B
        ```
        ## c: C
        ````
        `` ```not a fence``` ``
        ```inline``` is none either
        ## d: D
        adapter: pi
        """
    )
    assert [task.key for task in found.tasks] == ["a", "d"]
    assert "## b: B\n```\n## c: C" in found.tasks[0].body


def test_an_empty_line_below_the_heading_means_no_directives() -> None:
    text = '+++\nadapter = "pi"\n+++\n## a: A\n\nmodel: opus\n'
    (task,) = workflow(text).tasks
    assert (task.model, task.body) == (None, "model: opus")


def test_directives_may_be_followed_by_the_next_task() -> None:
    found = workflow("## a: A\nadapter: pi\n## b: B\nadapter: pi")
    assert [task.adapter for task in found.tasks] == ["pi", "pi"]


def test_a_command_keeps_its_lines_and_their_relative_indentation() -> None:
    found = workflow(
        """\
        ## a: A
        run: python - <<END
            if True:
              print(1)
            END

        ## b: B
        run:
          one
          two

        ## c: C
        run: |
          one
        """
    )
    assert [task.run for task in found.tasks] == [
        "python - <<END\nif True:\n  print(1)\nEND",
        "one\ntwo",
        "one",
    ]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90", 90), ("90s", 90), ("5m", 300), ("2h", 7200), ("500ms", 0.5), ("1d", 86400)],
)
def test_durations(written: str, seconds: float) -> None:
    (task,) = workflow(one_task(f"adapter: pi\ntimeout: {written}")).tasks
    assert task.timeout_s == seconds
    assert isinstance(task.timeout_s, int) == (seconds == int(seconds))


def test_retry_without_delays() -> None:
    assert workflow(one_task("adapter: pi\nretry: 3")).tasks[0].retry == RetryPolicy(3)


def test_outputs_as_a_json_object() -> None:
    (task,) = workflow(
        one_task(
            """\
            adapter: pi
            outputs: {"report": {"kind": "text"}, "notes": {"required": false},
              "stats": {"kind": "json", "schema": {"type": "object"}},
              "tree": {"kind": "workspace", "paths": ["src"]}}
            """
        )
    ).tasks
    assert task.outputs == {
        "report": OutputDeclaration("text"),
        "notes": OutputDeclaration("text", required=False),
        "stats": OutputDeclaration("json", schema={"type": "object"}),
        "tree": OutputDeclaration("workspace", paths=("src",)),
    }


# Placeholders and matrices


def test_a_matrix_makes_a_task_for_each_combination() -> None:
    found = workflow(
        """\
        +++
        vars = { who = "Ada", part = "hidden by the axis" }
        +++
        ## test: Test {{ part }} for {{ who }}
        matrix: part=Core v2,cli; os=linux,mac
        run: make {{ part }}-{{os}} \\{{ part }} {{.Name}}
        verify: test -d {{ part }}
        acceptance: {{ part }} passes {{ unknown }}
        outputs: log-{{ os }} text

        See {{ part }}, {{ unknown }} and \\{{ part }}.

        ## report: Report
        depends_on: test, test-cli-mac
        run: x
        """
    )
    keys = ["test-core-v2-linux", "test-core-v2-mac", "test-cli-linux", "test-cli-mac"]
    assert [task.key for task in found.tasks] == [*keys, "report"]
    first = found.tasks[0]
    assert first.title == "Test Core v2 for Ada"
    assert first.run == "make Core v2-linux {{ part }} {{.Name}}"
    assert first.verify == ("test -d Core v2",)
    assert first.acceptance == ("Core v2 passes {{ unknown }}",)
    assert list(first.outputs) == ["log-linux"]
    assert first.body == "See Core v2, {{ unknown }} and {{ part }}."
    assert first.matrix == {"part": "Core v2", "os": "linux"}
    assert to_definitions(found)[0]["metadata"] == {
        "matrixKey": "test",
        "matrix": {"part": "Core v2", "os": "linux"},
    }
    assert found.tasks[4].depends_on == tuple(keys)


def test_matrices_with_the_same_axes_wait_for_all_unless_paired_by_placeholder() -> None:
    found = workflow(
        """\
        ## build: Build
        matrix: part=a,b
        run: x

        ## test: Test
        matrix: part=a,b
        depends_on: build
        run: x

        ## ship: Ship
        matrix: part=a,b
        depends_on: test-{{ part }}
        run: x
        """
    )
    depends_on = {task.key: task.depends_on for task in found.tasks}
    assert depends_on["test-a"] == depends_on["test-b"] == ("build-a", "build-b")
    assert depends_on["ship-a"] == ("test-a",)
    assert depends_on["ship-b"] == ("test-b",)


def test_placeholders_in_arguments_cannot_break_the_json() -> None:
    found = workflow(
        """\
        +++
        vars = { q = '", "x": "' }
        +++
        ## a: A
        adapter: harness
        harness_file: h.py
        args: {"a": ["{{ q }}"], "b": "\\\\{{ q }}", "n": 1}
        """
    )
    assert found.tasks[0].args == {"a": ['", "x": "'], "b": "{{ q }}", "n": 1}


def test_braces_of_other_programs_are_left_alone() -> None:
    (task,) = workflow(one_task("run: docker ps --format '{{json}} {{ .ID }} {{  x }}'")).tasks
    assert task.run == "docker ps --format '{{json}} {{ .ID }} {{  x }}'"


def test_a_value_is_not_looked_at_again() -> None:
    text = "+++\nvars = { a = '{{ b }}', b = 'no' }\n+++\n## a: A\nrun: {{ a }}\n"
    assert workflow(text).tasks[0].run == "{{ b }}"


def test_axes_make_their_placeholders_known_in_names_and_models() -> None:
    found = workflow(one_task("adapter: {{ who }}\nmatrix: who=pi,codex"))
    assert [(task.key, task.adapter) for task in found.tasks] == [
        ("a-pi", "pi"),
        ("a-codex", "codex"),
    ]


# What is refused, where, and with which way out

REFUSED: list[tuple[str, str, int, str, str]] = [
    ("unclosed toml", "\n+++\nproject = 'x'\n## a: A\nadapter: pi", 2, "unclosed_frontmatter", "+++"),
    ("unclosed yaml", "---\na\n+++\n## a: A\nadapter: pi", 1, "unclosed_frontmatter", "---"),
    ("toml syntax", "+++\nproject = 'x'\nmodel = \n+++\n## a: A", 3, "bad_frontmatter", "quote"),
    ("toml end", '+++\nrunName = """\n\n+++\n## a: A\nadapter: pi', 4, "bad_frontmatter", "quote"),
    ("toml twice", "+++\nmodel='a'\nmodel='b'\n+++\n## a: A", 3, "bad_frontmatter", "quote"),
    ("yaml syntax", "---\nproject: x\nmodel: [\n---\n## a: A", 3, "bad_frontmatter", "quote"),
    ("yaml list", "---\n- a\n---\n## a: A", 2, "bad_frontmatter", "project: site"),
    ("yaml twice", "---\nmodel: a\nmodel: b\n---\n## a: A\nadapter: pi", 3, "bad_frontmatter", "keep"),
    ("yaml number", "---\nadapter: pi\nproject: 5\n---\n## a: A", 3, "bad_frontmatter_value", "quotes"),
    ("yaml date", "---\nadapter: pi\nvars:\n  x: 1\n  d: 2020-01-01\n---\n## a: A", 5,
     "bad_frontmatter_value", "quotes"),
    ("unknown key", "+++\nadapter='pi'\nrun_key='x'\n+++\n## a: A", 3, "unknown_frontmatter_key",
     "did you mean `runKey`?"),
    ("unknown table", "+++\nadapter='pi'\n\n[bugdet]\ntokens=1\n+++\n## a: A", 4,
     "unknown_frontmatter_key", "did you mean `budget`?"),
    ("frontmatter project", "+++\nadapter='pi'\nproject='My Site'\n+++\n## a: A", 3,
     "bad_frontmatter_value", "my-site"),
    ("frontmatter budget", "+++\nadapter='pi'\n[budget]\ntoken=1\n+++\n## a: A", 3,
     "bad_frontmatter_value", "did you mean `tokens`?"),
    ("frontmatter variable", "+++\nadapter='pi'\n[vars]\na=1\n'b c'=2\n+++\n## a: A", 5,
     "bad_frontmatter_value", "letter"),
    ("frontmatter capability", "+++\nadapter='pi'\ncapabilities=['a b']\n+++\n## a: A", 3,
     "bad_frontmatter_value", "without spaces"),
    ("frontmatter adapter", "+++\nadapter='P I'\n+++\n## a: A", 2, "bad_frontmatter_value", "p-i"),
    ("empty", "", 1, "no_tasks", "##"),
    ("only text", "# Title\n\nText\n", 1, "no_tasks", "##"),
    ("nothing after it", "+++\n+++", 2, "no_tasks", "##"),
    ("no key", "## Notes on it\n", 1, "bad_heading", "`## notes-on-it: Notes on it`"),
    ("no title", "## a:\nadapter: pi\n", 1, "bad_heading", "## a: "),
    ("long title", f"## a: {'x' * 501}\nadapter: pi\n", 1, "bad_heading", "short"),
    ("no space", "##a: A\nadapter: pi\n", 1, "bad_heading", "`## a: A`"),
    ("upper case key", "## Fix_It: A\nadapter: pi\n", 1, "bad_key", "`## fix-it: A`"),
    ("long key", f"## {'k' * 65}: A\nadapter: pi\n", 1, "bad_key", "kkk: A"),
    ("duplicate", "## a: A\nrun: x\n## a: A\nrun: x\n", 3, "duplicate_task", "another key"),
    ("stray line", one_task("adapter: pi\nDo it now.\nAnd: this"), 3, "missing_empty_line", "empty line"),
    ("one space", one_task("adapter: pi\n run: x"), 3, "missing_empty_line", "two or more spaces"),
    ("nothing to continue", "## a: A\n  x\nadapter: pi\n", 2, "missing_empty_line", "empty line"),
    ("misspelt", one_task("adapter: pi\ndepend_on: b"), 3, "unknown_directive", "did you mean `depends_on`?"),
    ("spaced", one_task("adapter: pi\nDepends on: b"), 3, "unknown_directive", "did you mean `depends_on`?"),
    ("other tool's", one_task("adapter: pi\nneeds: b"), 3, "unknown_directive", "did you mean `depends_on`?"),
    ("unknown", one_task("adapter: pi\nzzzz: b"), 3, "unknown_directive", "remove"),
    ("twice", one_task("adapter: pi\nmodel: a\nmodel: b"), 4, "duplicate_directive", "keep one"),
    ("unknown dependency", "## build: A\nrun: x\n## b: B\nrun: x\ndepends_on: biuld\n", 5,
     "unknown_dependency", "did you mean `build`?"),
    ("self", "## a: A\nrun: x\ndepends_on: a\n", 3, "self_dependency", "remove"),
    ("matrix self", "## a: A\nrun: x\nmatrix: p=q,r\ndepends_on: a-q\n", 4, "self_dependency", "a-q"),
    ("no adapter", "## a: A\n", 1, "adapter_missing", "adapter: claude"),
    ("directives too late", "## a: A\n\nadapter: pi\n", 1, "adapter_missing", "remove the empty line"),
    ("command", one_task("optional: true\nadapter: command"), 3, "run_missing", "run: COMMAND"),
    ("default command", "+++\nadapter='command'\n+++\n## a: A\n", 4, "run_missing", "run: COMMAND"),
    ("run elsewhere", one_task("run: x\nadapter: pi"), 2, "run_without_command", "verify"),
    ("harness", one_task("adapter: harness"), 2, "harness_file_missing", "harness_file: PATH"),
    ("harness file", one_task("adapter: pi\nharness_file: x.py"), 3, "harness_file_without_harness",
     "adapter: harness"),
    ("arguments", one_task("adapter: pi\nargs: {}"), 3, "args_without_harness", "adapter: harness"),
    ("both", one_task("adapter: harness\nharness_file: x\nargs_file: y\nargs: {}"), 5, "args_conflict",
     "keep one"),
    ("acceptance count", one_task("adapter: pi\n" + "acceptance: x\n" * 65), 67, "too_many_acceptance",
     "split"),
    ("acceptance length", one_task(f"adapter: pi\nacceptance: {'x' * 2001}"), 3, "acceptance_too_long",
     "brief"),
    ("outputs", one_task("adapter: pi\noutputs: " + ", ".join(f"o{i}" for i in range(65))), 3,
     "too_many_outputs", "output"),
    ("body", one_task("adapter: pi", "\nä" + "ä" * (TASK_BODY_SIZE_BYTES_MAX // 2)), 5, "body_too_long",
     "shorten"),
    ("placeholder in run", one_task("run: {{ prat }}\nmatrix: part=a"), 2, "unknown_placeholder",
     "did you mean `part`?"),
    ("placeholder in title", "## a: {{ x }}\nrun: x\n", 1, "unknown_placeholder", "`vars`"),
    ("placeholder in verify", one_task("run: x\nverify: {{ x }}"), 3, "unknown_placeholder", "\\{{"),
    ("placeholder in outputs", one_task("run: x\noutputs: {{ x }}"), 3, "unknown_placeholder", "\\{{"),
    ("matrix shape", one_task("run: {{ x }}\nmatrix: a,b"), 3, "bad_value", "name=first,second"),
    ("matrix axis", one_task("run: x\nmatrix: a-b=c"), 3, "bad_value", "underscores"),
    ("matrix axes", one_task("run: x\nmatrix: a=b; a=c"), 3, "bad_value", "join"),
    ("matrix value", one_task("run: x\nmatrix: a=b,,c"), 3, "bad_value", "letter or digit"),
    ("matrix values", one_task("run: x\nmatrix: a=b.c,B c"), 3, "bad_value", "differ"),
    ("matrix key", one_task(f"run: x\nmatrix: a={'b' * 63}"), 3, "bad_value", "shorten"),
    ("matrix clash", "## a-x: A\nrun: x\n## a: A\nrun: x\nmatrix: p=x,y\n", 3, "duplicate_task", "key"),
    ("matrix size", one_task("run: x\nmatrix: " + "; ".join(f"a{i}=1,2" for i in range(400))), 3,
     "too_many_tasks", "fewer"),
    ("fence", "## a: A\nadapter: pi\n\n```\n## b: B\n", 4, "unclosed_code_block", "```"),
    ("unclosed without adapter", "+++\nadapter = 'pi'\n## a: {{ x }}\n", 1, "unclosed_frontmatter", "+++"),
    ("same name inside", "---\nadapter: pi\nvars:\n  project: x\nproject: My Site\n---\n## a: A", 5,
     "bad_frontmatter_value", "my-site"),
    ("same name outside", "+++\nadapter='pi'\n[vars]\nadapter=nan\n+++\n## a: A", 4,
     "bad_frontmatter_value", "quotes"),
    ("bad variable in use", "+++\nadapter='pi'\n[vars]\nd=2020-01-01\n+++\n## a: A {{ d }}", 4,
     "bad_frontmatter_value", "quotes"),
    ("bad matrix in use", one_task("adapter: {{ p }}\nmatrix: p"), 3, "bad_value", "name=first"),
    ("bad matrix in use, tight", one_task("adapter: {{p}}\nmatrix: p"), 3, "bad_value", "name=first"),
    ("matrix on itself", "## a: A\nrun: x\nmatrix: p=q,r\ndepends_on: a\n", 4, "self_dependency", "`a`"),
    ("cycle from outside", "## x: X\nrun: x\ndepends_on: c\n## b: B\nrun: x\ndepends_on: c\n"
     "## c: C\nrun: x\ndepends_on: b\n", 6, "dependency_cycle", "`c` from the `depends_on` of `b`"),
    ("cycle of matrices", "## a: A\nrun: x\nmatrix: p=q,r\ndepends_on: b-{{ p }}\n"
     "## b: B\nrun: x\nmatrix: p=q,r\ndepends_on: a-{{ p }}\n", 4, "dependency_cycle", "b-q"),
    ("nul", "## a: A\nrun: x\0\n", 2, "bad_character", "UTF-8"),
    ("surrogate", "## a: A\nrun: x\n\n\udc80\n", 4, "bad_character", "UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "code", "fix"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_fault_is_reported_once_on_its_line_with_a_fix(
    text: str, line: int, code: str, fix: str
) -> None:
    (problem,) = problems(text)
    assert (problem.line, problem.code) == (line, code)
    assert fix in problem.fix
    assert problem.message


BAD_VALUES = {
    "depends_on": ["", "a,,b", "[a", "a]"],
    "adapter": ["", "Claude", "a b"],
    "model": ["", "a b"],
    "effort": ["", "hgih"],
    "acceptance": [""],
    "capabilities": ["", "a b", "a,,b", ",".join(f"c{i}" for i in range(65))],
    "grants": ["", "a b"],
    "retry": ["", "0", "101", "x", "3 backoff", "3 backof=2s", "3 backoff=x", "3 max=1s backoff=2s",
              "3 max=1s max=2s", "-1", "٣"],
    "timeout": ["", "0", "-1", "1w", "31d", "9" * 400, "1e3", "٣s"],
    "on_failure": ["", "contineu"],
    "optional": ["", "yes", "True"],
    "priority": ["", "1.5", "1001", "high"],
    "outputs": ["", "a b c d", "a txt", "A", "a,a", "{", '{"a": 1}', '{"a": {"kind": 1}}',
                '{"a": {"required": 1}}', '{"a": {"schema": {}}}', '{"a": {"size": 1}}',
                '{"a": {"paths": "x"}}', '{"a": {"paths": [1]}}', '{"a": {}, "a": {}}', '{"A": {}}'],
    "harness_file": ["", "x" * 1001],
    "args": ["", "x", "null", "{'a': 1}", '{"a": NaN}', '{"a": 1e999}', '{"a": 9223372036854775808}', '{"a": ' + "9" * 5000 + "}",
             '{"a": 1, "a": 2}', "[" * 100_000, "[" * 40 + "]" * 40, '"\\u0000"', '"\\ud800"',
             '"' + "x" * 70_000 + '"'],
    "args_file": ["", "x" * 1001],
    "budget": ["", "tokens", "token=1", "tokens=x", "tokens=-1", "tokens=1 tokens=2",
               "cost_usd=1 cost_micro_usd=1", "cost_usd=free", "wall=x", "tokens=" + "9" * 400],
    "run": ["", "x" * 70_000],
    "verify": ["", "x" * 70_000],
    "matrix": ["", "a", "=b", "a=", "a=b;"],
    "permission": ["", "readonly", "never"],
}  # fmt: skip


def test_every_directive_has_bad_values_to_try() -> None:
    assert set(BAD_VALUES) == set(DIRECTIVES)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_VALUES.items() for value in values]
)
def test_a_bad_value_is_reported_on_its_line_and_names_its_directive(name: str, value: str) -> None:
    base = {
        "run": ["optional: true"],
        "adapter": ["optional: true"],
        "harness_file": ["adapter: harness"],
        "args": ["adapter: harness", "harness_file: x"],
        "args_file": ["adapter: harness", "harness_file: x"],
        "depends_on": ["run: x"],
        "optional": ["run: x"],
    }.get(name, ["adapter: pi"])
    text = "\n".join(["## a: A", *base, f"{name}: {value}", "", "Brief"])
    (problem,) = problems(text)
    assert (problem.line, problem.code) == (2 + len(base), "bad_value")
    assert problem.message.startswith(f"`{name}`: ")
    assert problem.fix
    assert len(problem.message) < 600


def test_a_cycle_is_named_whole_and_every_cycle_is_reported() -> None:
    found = problems(
        """\
        ## a: A
        run: x
        depends_on: b

        ## b: B
        run: x
        depends_on: c

        ## c: C
        depends_on: a
        run: x

        ## d: D
        run: x
        depends_on: e, a

        ## e: E
        run: x
        depends_on: d
        """
    )
    assert [(each.line, each.message.partition(": ")[2]) for each in found] == [
        (3, "a -> b -> c -> a"),
        (15, "d -> e -> d"),
    ]


def test_all_problems_are_reported_at_once_by_line_without_echoes() -> None:
    found = places(
        """\
        ---
        project: My Site
        runkey: x
        ---
        ## Fix_It: A
        adapter: pi

        ## b: B {{ x }}
        depends_on: fix-it, b, nope, m-q
        adapter: Claude
        retry: never

        ## m: M
        matrix: p
        run: {{ p }}

        ## b: Again
        run: x
        runs: x
        """
    )
    assert found == [
        (2, "bad_frontmatter_value"),
        (3, "unknown_frontmatter_key"),
        (5, "bad_key"),
        (8, "unknown_placeholder"),
        (9, "self_dependency"),
        (9, "unknown_dependency"),
        (10, "bad_value"),
        (11, "bad_value"),
        (14, "bad_value"),
        (17, "duplicate_task"),
        (19, "unknown_directive"),
    ]


def test_yaml_without_a_reader_is_refused() -> None:
    with pytest.raises(WorkflowFileError) as refusal:
        parse("\n---\nadapter: pi\n---\n## a: {{ x }}\n")
    assert [(each.line, each.code) for each in refusal.value.problems] == [(2, "yaml_unavailable")]


@pytest.mark.parametrize(
    "block",
    ["a: !!int ''", "? [a]\n: 1", "1: 2", "null: 1", "a: &a [*a]", "vars: &a {x: *a}", "\t- a", "a: 0x" + "f" * 9000,
     "0x" + "f" * 9000 + ": 1", "vars: {x: .nan}", "vars: {x: 0x" + "f" * 9000 + "}", "!!timestamp x: 1",
     "- " * 3000, "budget: {1: 2}", "capabilities: [[a]]", "vars: 1", "runName: ''", "runName: \"a\\0\""],
)  # fmt: skip
def test_no_yaml_makes_it_fail_otherwise(block: str) -> None:
    last = 1 + len(block.split("\n")) + 1
    for line, code in places(f"---\n{block}\n---\n## a: A\nadapter: pi\n"):
        assert 2 <= line <= last
        assert "frontmatter" in code


@pytest.mark.parametrize("block", ["a = " + "[" * 5000, "a = " + "9" * 5000, "vars = { x = nan }"])
def test_no_toml_makes_it_fail_otherwise(block: str) -> None:
    assert all(
        "frontmatter" in code for _, code in places(f"+++\n{block}\n+++\n## a: A\nadapter: pi\n")
    )


def test_the_error_reads_well() -> None:
    with pytest.raises(WorkflowFileError) as refusal:
        parse("## a: A\nrnu: x\nadapter: pi\n")
    assert refusal.value.code == "invalid_workflow_file"
    assert str(refusal.value) == (
        "the workflow file has 1 problem\n  line 2: `rnu` is not a directive (did you mean `run`?)"
    )


# Size


def test_ten_thousand_tasks_are_read_in_seconds_and_one_more_is_refused() -> None:
    lines = ["+++", "adapter = 'pi'", "+++"]
    for number in range(ADMISSION_TASKS_MAX):
        lines += [f"## t{number}: T", f"depends_on: t{number - 1}" if number else "", "", "Do."]
    started = time.monotonic()
    assert len(parse("\n".join(lines)).tasks) == ADMISSION_TASKS_MAX
    assert time.monotonic() - started < 20
    assert places("\n".join([*lines, "## more: M"])) == [(len(lines) + 1, "too_many_tasks")]


def test_a_small_file_cannot_make_a_huge_one() -> None:
    brief = "x" * 200_000
    hundred = ",".join(map(str, range(100)))
    text = f"## a: A\nrun: x\nmatrix: p={hundred}; q={hundred}\n\n{brief}\n"
    assert places(text) == [(1, "file_too_large")]


def test_many_unknown_dependencies_do_not_take_long() -> None:
    lines = []
    for number in range(4000):
        lines += [f"## task-{number}: T", "run: x", f"depends_on: tusk-{number}", ""]
    started = time.monotonic()
    assert len(problems("\n".join(lines))) == 4000
    assert time.monotonic() - started < 20


# Properties: no text makes it fail otherwise

FRAGMENTS = [
    "+++", "---", "", " ", "  ", "```", "~~~", "## a: A", "## b: B {{ x }}", "## a-1: C", "##", "## ", "##x: y",
    "# T", "### x", "adapter: pi", "adapter = 'pi'", "depends_on: a, b", "depends_on: [a-1]", "run: x {{ p }}",
    "  more {{ p }}", "matrix: p=1,2; q=3", "matrix: p", "vars:", "  p: 1", "vars = { p = 'x', q = 1 }",
    "outputs: {\"a\": {}}", "outputs: a json optional", "args: [[", "args: {}", "harness_file: h.py", "\\{{ p }}",
    "retry: 3 backoff=1s", "budget: tokens=1", "verify: {{ p }}", "acceptance: {{ z }}", "optional: true",
    "on_failure: wait", "text", "name: value", "[vars]", "- a", "\ufeff", "\u2028", "\x0b", "\r", "a: b: c", ":",
    "capabilities: []", "model: {{ p }}", "args_file: x", "adapter: harness", "adapter: command", "timeout: 1m",
]  # fmt: skip

any_text = st.one_of(
    # Mostly right, so that the rest of the way is walked too.
    st.lists(st.sampled_from(FRAGMENTS), max_size=5).map(
        lambda rest: "\n".join(["+++", "adapter = 'pi'", "+++", "## k: K", *rest])
    ),
    st.text(),
    st.text(alphabet=st.sampled_from("#+-`~:{}[]\\=,; \n\r\tab1\0\ud800")),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=8)), max_size=30).map(
        "\n".join
    ),
    st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(
        lambda rest: "\n".join(["## k: K", *rest])
    ),
)


@settings(max_examples=600, deadline=None)
@given(any_text)
@example("\ufeff+++")
@example("---\n\x85---")
def test_any_text_is_a_workflow_or_a_list_of_problems_on_lines_that_exist(text: str) -> None:
    line_count = len(re.split("\r\n|\r|\n", text))
    for load_yaml in (None, yaml.safe_load):
        found = read(text, load_yaml)
        if isinstance(found, tuple):
            assert found == tuple(sorted(set(found)))
            assert all(1 <= problem.line <= line_count for problem in found)
            assert all(each.code and each.message and each.fix for each in found)
        else:
            keys = [task.key for task in found.tasks]
            assert keys
            assert len(keys) == len(set(keys))
            assert all(set(task.depends_on) < set(keys) for task in found.tasks)
            assert all(task.adapter and task.title for task in found.tasks)
            json.dumps(to_definitions(found)).encode()


# Properties: what is rendered is read back

keys = st.from_regex(r"[a-z0-9]{1,6}(-[a-z0-9]{1,4}){0,2}", fullmatch=True)
words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,11}", fullmatch=True)
printable = st.characters(exclude_categories=("C", "Z"), exclude_characters="#|")
phrase = st.lists(st.text(printable, min_size=1, max_size=8), min_size=1, max_size=5).map(" ".join)
prose_line = st.one_of(
    phrase, st.just(""), st.sampled_from(["### h", "- x", "    indented: x", "run: y"])
)


def escaped(text: str) -> str:
    return text.replace("{{", "\\{{")


# A backslash before two braces is the escape itself; it is written by doubling nothing, so left out.
unambiguous = phrase.filter(lambda text: "\\{{" not in text)


@st.composite
def rendered_files(draw: st.DrawFn) -> tuple[str, list[dict[str, object]]]:
    """A file and the definitions that it must give."""
    definitions: list[dict[str, object]] = []
    lines = draw(st.lists(phrase.map(lambda text: "> " + text), max_size=3))
    for key in draw(st.lists(keys, min_size=1, max_size=6, unique=True)):
        title = " ".join(draw(unambiguous).split())
        task: dict[str, object] = {"taskKey": key, "title": title}
        directives: list[str] = []

        def put(name: str, text: str, out: list[str] = directives) -> None:
            first, *rest = escaped(text).split("\n")
            out.append("\n".join([f"{name}: {first}", *(f"   {each}" for each in rest)]))

        if draw(st.booleans()):
            task["adapter"] = "command"
            shell = "\n".join(draw(st.lists(unambiguous, min_size=1, max_size=3)))
            task["input"] = {"shell": shell}
            put("run", shell)
        else:
            task["adapter"] = draw(keys.filter(lambda each: each not in ("command", "harness")))
            put("adapter", task["adapter"])
        for name, field, strategy in (
            ("model", "model", words),
            ("effort", "effort", st.sampled_from(["low", "high", "max"])),
            (
                "on_failure",
                "dependencyFailurePolicy",
                st.sampled_from(["cancel", "wait", "continue"]),
            ),
            ("permission", "permissionMode", st.sampled_from(["auto", "ask", "readOnly"])),
        ):
            if (value := draw(st.none() | strategy)) is not None:
                task[field] = value
                put(name, value)
        for name, field, strategy in (
            (
                "depends_on",
                "dependsOn",
                st.sampled_from([d["taskKey"] for d in definitions] or [None]),
            ),
            ("capabilities", "requiredCapabilities", words),
            ("grants", "toolGrants", words),
        ):
            listed = [each for each in draw(st.lists(strategy, max_size=3, unique=True)) if each]
            if listed:
                task[field] = listed
                joined = ", ".join(listed)
                put(name, f"[{joined}]" if draw(st.booleans()) else joined)
        for name in ("acceptance", "verify"):
            if repeated := draw(st.lists(unambiguous, max_size=3)):
                task[name] = repeated
                for each in repeated:
                    put(name, each)
        if seconds := draw(st.integers(0, 10_000)):
            task["timeoutS"] = seconds
            put(
                "timeout",
                draw(st.sampled_from([f"{seconds}", f"{seconds}s", f"{seconds * 1000}ms"])),
            )
        if priority := draw(st.integers(-1000, 1000)):
            task["priority"] = priority
            put("priority", str(priority))
        if draw(st.booleans()):
            task["optional"] = True
            put("optional", "true")
        if outputs := draw(
            st.dictionaries(
                keys,
                st.tuples(st.sampled_from(["text", "json", "workspace"]), st.booleans()),
                max_size=3,
            )
        ):
            task["declaredOutputs"] = {
                name: {"kind": kind, "required": required}
                for name, (kind, required) in outputs.items()
            }
            put("outputs", ", ".join(
                f"{name} {kind}" + ("" if required else " optional")
                for name, (kind, required) in outputs.items()
            ))  # fmt: skip
        body = "\n".join(draw(st.lists(prose_line, max_size=5))).strip("\n")
        body = "" if re.search(r"^ {0,3}(```|~~~)", body, re.M) or "\\{{" in body else body
        if body:
            task["bodyMarkdown"] = body
        definitions.append(task)
        directives = draw(st.permutations(directives)) if not task.get("verify") else directives
        repeated_order = [each for each in directives if each.startswith("acceptance: ")]
        if "acceptance" in task:
            written = iter([f"acceptance: {escaped(each)}" for each in task["acceptance"]])
            directives = [next(written) if each in repeated_order else each for each in directives]
        lines += [f"## {key}: {escaped(title)}", *directives, "", *escaped(body).split("\n"), ""]
    return "\n".join(lines), definitions


@settings(max_examples=80, deadline=None)
@given(rendered_files(), st.sampled_from(["\n", "\r\n"]))
def test_what_is_rendered_is_read_back(
    rendered: tuple[str, list[dict[str, object]]], ending: str
) -> None:
    text, definitions = rendered
    assert to_definitions(parse(text.replace("\n", ending))) == definitions


@settings(max_examples=60, deadline=None)
@given(rendered_files(), st.data())
def test_an_unknown_directive_is_reported_on_its_very_line(
    rendered: tuple[str, list[dict[str, object]]], data: st.DataObject
) -> None:
    lines = rendered[0].split("\n")
    at = data.draw(
        st.sampled_from([i + 1 for i, line in enumerate(lines) if line.startswith("## ")]), "at"
    )
    name = data.draw(
        st.from_regex(r"[a-zA-Z][a-zA-Z0-9_-]{0,12}", fullmatch=True).filter(
            lambda each: each not in DIRECTIVES
        ),
        "name",
    )
    lines.insert(at, f"{name}: {data.draw(unambiguous)}")
    assert places("\n".join(lines)) == [(at + 1, "unknown_directive")]


# Properties: graphs


def render_graph(edges: dict[int, set[int]], order: list[int]) -> str:
    lines: list[str] = []
    for node in order:
        lines += [f"## n{node}: N", "run: x"]
        if edges[node]:
            lines.append("depends_on: " + ", ".join(f"n{each}" for each in sorted(edges[node])))
        lines.append("")
    return "\n".join(lines)


@st.composite
def acyclic_graphs(draw: st.DrawFn) -> tuple[dict[int, set[int]], list[int]]:
    """Edges go to lower numbers only; the file order is any."""
    count = draw(st.integers(2, 12))
    edges = {
        node: draw(st.sets(st.integers(0, node - 1), max_size=4)) if node else set[int]()
        for node in range(count)
    }
    return edges, draw(st.permutations(range(count)))


@settings(max_examples=150, deadline=None)
@given(acyclic_graphs())
def test_an_acyclic_graph_is_never_refused(graph: tuple[dict[int, set[int]], list[int]]) -> None:
    edges, order = graph
    found = parse(render_graph(edges, order))
    assert {task.key: set(task.depends_on) for task in found.tasks} == {
        f"n{node}": {f"n{each}" for each in below} for node, below in edges.items()
    }


@settings(max_examples=150, deadline=None)
@given(acyclic_graphs(), st.data())
def test_a_cyclic_graph_is_always_refused_and_the_cycle_named_is_one(
    graph: tuple[dict[int, set[int]], list[int]], data: st.DataObject
) -> None:
    edges, order = graph
    ring = data.draw(st.lists(st.sampled_from(order), min_size=2, max_size=5, unique=True), "ring")
    for node, after in zip(ring, [*ring[1:], ring[0]], strict=True):
        edges[node].add(after)
    text = render_graph(edges, order)
    found = problems(text)
    assert {each.code for each in found} == {"dependency_cycle"}
    for problem in found:
        path = problem.message.partition(": ")[2].split(" -> ")
        assert path[0] == path[-1]
        numbers = [int(each[1:]) for each in path]
        assert all(after in edges[node] for node, after in pairwise(numbers))
        # The line is that of the dependencies of the task that the message begins with.
        assert f"## {path[0]}: N" == text.split("\n")[problem.line - 3]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(keys, min_size=1, max_size=4, unique=True), min_size=1, max_size=3))
def test_a_matrix_is_the_product_of_its_axes(axes: list[list[str]]) -> None:
    matrix = "; ".join(f"x{index}={','.join(values)}" for index, values in enumerate(axes))
    count = 1
    for values in axes:
        count *= len(values)
    text = f"## a: A\nmatrix: {matrix}\nrun: x\n\n## b: B\ndepends_on: a\nrun: x\n"
    found = read(text)
    if isinstance(found, tuple):
        # Joined by `-`, different values can meet in one key.
        assert {each.code for each in found} <= {"duplicate_task", "bad_value"}
    else:
        *made, last = found.tasks
        assert len({task.key for task in made}) == len(made) == count
        assert last.depends_on == tuple(task.key for task in made)


# Suggestions


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("runkey", "runKey"),
        ("run_key", "runKey"),
        ("depends-on", "depends_on"),
        ("dependson", "depends_on"),
        ("adaptor", "adapter"),
        ("xyzzy", None),
        ("", None),
        ("adapter" * 20, None),
    ],
)
def test_the_closest_name(name: str, expected: str | None) -> None:
    assert closest(name, [*DIRECTIVES, *FRONTMATTER_KEYS]) == expected


def test_did_you_mean() -> None:
    assert did_you_mean("modle", ["timeout", "model"]) == "did you mean `model`?"
    assert did_you_mean("q", ["model"]) == ""


@given(st.text(max_size=80), st.lists(st.text(max_size=80), max_size=8))
def test_a_suggestion_is_a_candidate_and_a_known_name_suggests_itself(
    name: str, candidates: list[str]
) -> None:
    assert closest(name, candidates) in {None, *candidates}
    if 0 < len(name) <= 64 and name.strip("-_ "):
        assert closest(name, [name, *candidates]) == name


# The page


def test_the_example_of_the_page_is_a_workflow() -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```markdown\n(.*?)^```$", text, re.S | re.M)
    assert len(blocks) == 1
    found = parse(blocks[0])
    assert [task.key for task in found.tasks] == [
        "plan", "fix",
        "test-core-linux", "test-core-mac", "test-store-linux", "test-store-mac",
        "test-cli-linux", "test-cli-mac",
        "write-notes",
    ]  # fmt: skip
    assert found.tasks[0].title == "Find out why sign-in fails on main"
    assert found.tasks[2].run == "set -e\nnpm ci\nnpm test -- --project core --os linux"
    assert len(found.tasks[-1].depends_on) == 7


def test_the_page_lists_every_directive_with_an_example_that_works() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| `([a-z_]+: .+?)` \|", text, re.M))
    assert set(rows) == set(DIRECTIVES)
    for name, directive in rows.items():
        assert directive.startswith(f"{name}: ")
        DIRECTIVES[name].read(directive.partition(": ")[2])


def test_the_page_lists_every_setting_and_every_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-zA-Z]+)` \| `([a-zA-Z]+ = .+?)` \|", text, re.M))
    assert set(rows) == set(FRONTMATTER_KEYS)
    for setting in rows.values():
        parse(f"+++\n{setting}\n+++\n## a: A\nadapter: pi\n")
    for code in {row[3] for row in REFUSED}:
        assert f"`{code}`" in text


def test_how_results_are_brought_together_is_said_in_the_frontmatter() -> None:
    front = "+++\n[merging]\npromote = true\nverify = 'make test'\n[merging.resolver]\nadapter = 'pi'\n+++\n"
    found = workflow(front + "## a: A\nadapter: pi\n\nGo.\n")
    assert found.merging == {"promote": True, "verify": ["make test"], "resolver": {"adapter": "pi"}}


@pytest.mark.parametrize("value", ["'yes'", "{ verify = 1 }", "{ resolver = {} }", "{ other = 1 }"])
def test_what_is_no_way_to_bring_results_together(value: str) -> None:
    with pytest.raises(WorkflowFileError) as refused:
        workflow(f"+++\nmerging = {value}\n+++\n## a: A\nadapter: pi\n\nGo.\n")
    assert [p.code for p in refused.value.problems] == ["bad_frontmatter_value"]
