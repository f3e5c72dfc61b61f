"""Descriptions of children: from what a harness says to the definition of a task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from flakes.core import limits
from flakes.core.keys import is_key, key_from
from flakes.core.suggestion import did_you_mean
from flakes.harness.children import Child, Result
from flakes.harness.declaring import PRIMARY, OutputSpec, spec_of
from flakes.harness.definition import Defaults
from flakes.harness.errors import HarnessError
from flakes.harness.journal import digest_of
from flakes.harness.replay import Replay
from flakes.harness.schemas import encoded

TITLE_LENGTH: Final = 72
KEY_LENGTH: Final = 40
TAKEN: Final = frozenset({"work", "inputs", "outputs", "tmp", "state", "bin", "home", "session", "tools"})
"""What a task's directory holds already."""
INPUT_WORDS_MAX: Final = 4_000
"""Characters of an input's text that are said in the prompt of a child."""


@dataclass(slots=True)
class Options:
    """What can be said of any child; see `Context.agent`."""

    key: str | None = None
    adapter: str | None = None
    model: str | None = None
    effort: str | None = None
    inputs: Sequence[Any] = ()
    output: Any = None
    outputs: Mapping[str, Any] = field(default_factory=dict)
    live: bool = False
    idle_s: float | None = None
    optional: bool = False
    detached: bool = False
    retry: int | None = None
    timeout_s: float | None = None
    priority: int = 0
    acceptance: Sequence[str] = ()
    verify: Sequence[str] = ()
    capabilities: Sequence[str] = ()
    grants: Sequence[str] = ()
    budget: Mapping[str, int] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    permission_mode: str | None = None
    workspaces: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    join: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """From keyword arguments; unknown ones are refused by name."""
        known = {each.name for each in fields(cls)}
        for name in given:
            if name not in known:
                raise HarnessError(
                    "child_invalid", f"a child has no `{name}`", did_you_mean(name, known) or f"one of {', '.join(sorted(known))}"
                )
        return cls(**given)


class Spawner:
    """Begins children of one harness."""

    def __init__(self, replay: Replay, defaults: Defaults, task_id: str) -> None:
        self._replay = replay
        self._defaults = defaults
        self._task_id = task_id
        self._keys: set[str] = set()
        self.count = 0

    def agent(self, prompt: str, title: str | None, options: Options) -> Child[Any]:
        """See `Context.agent`."""
        adapter = options.adapter or self._defaults.adapter
        if adapter is None:
            raise HarnessError(
                "child_adapter_missing", f"the child {title or prompt[:40]!r} names no adapter, and there is no default",
                "say `adapter=\"pi\"`, give `define_harness(defaults=Defaults(adapter=...))`, or defaults with the task",
            )  # fmt: skip
        if not prompt.strip():
            raise HarnessError("child_invalid", "the prompt of a child is empty", "say what it has to do")
        definition: dict[str, Any] = {
            "adapter": adapter, "bodyMarkdown": prompt + _told(options.inputs),
            "model": options.model or (self._defaults.model if adapter == self._defaults.adapter else None),
            "effort": options.effort or (self._defaults.effort if adapter == self._defaults.adapter else None),
        }  # fmt: skip
        if adapter == "command":
            if self._defaults.command is None:
                raise HarnessError(
                    "child_invalid", "an agent of the adapter `command` needs a command line",
                    "give defaults with `agent.command`, or begin it with `ctx.command`",
                )  # fmt: skip
            definition["input"] = {"shell": self._defaults.command}
        child = self._begin(definition, title or _title(prompt), options)
        child.is_agent = adapter != "command"
        return child

    def command(self, line: str | Sequence[str], title: str | None, options: Options) -> Child[Any]:
        """See `Context.command`."""
        shell = isinstance(line, str)
        work: dict[str, Any] = {"shell": line} if shell else {"argv": list(line)}
        if options.env:
            work["env"] = dict(options.env)
        words = line if shell else " ".join(line)
        return self._begin({"adapter": "command", "input": work}, title or _title(words), options)

    def _begin(self, definition: dict[str, Any], title: str, options: Options) -> Child[Any]:
        specs = _specs(options)
        key = self._key(title, options.key)
        definition |= {
            "taskKey": key, "title": title[: limits.TITLE_LENGTH_MAX],
            "dependsOn": [each.key for each in options.inputs],
            "acceptance": list(options.acceptance), "verify": list(options.verify),
            "declaredOutputs": {name: each.definition for name, each in specs.items()},
            "requiredCapabilities": list(options.capabilities or self._defaults.capabilities),
            "toolGrants": list(options.grants), "workspaceInputs": _mounts(options.inputs) | dict(options.workspaces),
            "budget": dict(options.budget) if options.budget else None,
            "retry": _retry(options.retry or self._defaults.max_attempts), "timeoutS": options.timeout_s,
            "priority": options.priority, "optional": options.optional, "liveRounds": options.live,
            "liveIdle": {"afterS": options.idle_s} if options.idle_s else None,
            "permissionMode": options.permission_mode, "metadata": encoded(options.metadata),
        }  # fmt: skip
        task = {name: each for name, each in definition.items() if each not in (None, [], {}, "", 0, False)}
        size_bytes = len(json.dumps(task).encode())
        if size_bytes > limits.TASK_BODY_SIZE_BYTES_MAX:
            raise HarnessError(
                "child_invalid", f"the description of `{key}` has {size_bytes} bytes, more than {limits.TASK_BODY_SIZE_BYTES_MAX}",
                "hand large things over as outputs: `inputs=[child]`",
            )  # fmt: skip
        self.count += 1
        earlier = self._replay.earlier
        asked, join = digest_of(task), options.join
        reused = earlier.reused(asked, join)
        task["taskKey"] = earlier.key(key, asked, join)
        extra = {"asked": asked, "own": key, "key": task["taskKey"]} | ({"reused": reused} if reused else {})
        request = {"task": task, "group": options.group, "detached": options.detached}
        what = f"{'command' if definition['adapter'] == 'command' else 'agent'} {title!r}"
        effect = self._replay.start("spawn", request, what, lambda: extra)
        return Child(self._replay, effect, task["taskKey"], specs, live=options.live)

    def _key(self, title: str, given: str | None) -> str:
        if given is not None and not is_key(given):
            near = key_from(given, "child")
            raise HarnessError("child_invalid", f"{given!r} is not a key", f"write {near!r}")
        key = given
        if key is None:
            # A run has many parents: the name of this one's task is in the key of its child.
            digest = hashlib.sha256(f"{self._task_id} {self.count}".encode()).hexdigest()[:6]
            key = f"{key_from(title, 'child')[:KEY_LENGTH].strip('-')}-{digest}"
        if key in self._keys:
            raise HarnessError("child_invalid", f"two children have the key `{key}`", "give them different keys, or none")
        self._keys.add(key)
        return key


def _specs(options: Options) -> dict[str, OutputSpec[Any]]:
    specs = {name: spec_of(each) for name, each in options.outputs.items()}
    if options.output is not None:
        specs[PRIMARY] = spec_of(options.output)
    for name in specs:
        if not is_key(name):
            raise HarnessError("child_invalid", f"{name!r} is not the key of an output", f"write {key_from(name, 'output')!r}")
    return {name: each for name, each in specs.items() if each is not None}


def _mounts(inputs: Sequence[Any]) -> dict[str, str]:
    """Files of several inputs, each beside the working directory: brought together in it they may conflict."""
    results = [each.result if isinstance(each, Child) else each for each in inputs]
    left = [(each.key, each.files) for each in results if isinstance(each, Result) and each.files]
    if not 1 < sum(len(files) for _, files in left) <= limits.WORKSPACE_INPUTS_MAX:
        return {}
    return {_mount(key, name): handle for key, files in left for name, handle in files.items()}


def _mount(key: str, output: str) -> str:
    name = f"{key}-{output}" if output not in ("", PRIMARY) else key
    return f"{name[:58].rstrip('-')}-files" if name in TAKEN or len(name) > limits.KEY_LENGTH_MAX else name


def _told(inputs: Sequence[Any]) -> str:
    """What a prompt says of inputs: where their files are, and what they said."""
    if not inputs:
        return ""
    parts = ["\n\n## Inputs\n"]
    mounts = _mounts(inputs)
    for each in inputs:
        result = each.result if isinstance(each, Child) else each
        if not isinstance(result, Result):
            raise HarnessError("child_invalid", "an input has not ended yet", "await it first; then give it or its result")
        files = ", ".join(f"`$FLAKES_INPUTS/{each.key}/{name}`" for name in result.outputs)
        parts.append(f"\n### {each.key}\n" + (f"\nFiles: {files}\n" if files else ""))
        trees = ", ".join(f"`$FLAKES_WORK_DIR/../{_mount(each.key, name)}/`" for name in result.files if mounts)
        parts.append(f"\nIts working directory: {trees}\n" if trees else "")
        if result.text and not files:
            parts.append(f"\n{result.text[:INPUT_WORDS_MAX]}\n")
    return "".join(parts)


def _retry(attempts: int | None) -> dict[str, int] | None:
    return {"maxAttempts": attempts} if attempts and attempts > 1 else None


def _title(text: str) -> str:
    line = text.strip().split("\n")[0]
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1] + "…"
