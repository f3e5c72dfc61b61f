"""`define_harness`: what makes a function the harness of its module, and how one ends."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, overload

from flakes.core.limits import KIB
from flakes.harness.errors import HarnessError
from flakes.harness.schemas import converted, encoded

if TYPE_CHECKING:
    from flakes.harness.context import Context

A = TypeVar("A")
DATA_BYTES_MAX: Final = 64 * KIB


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a harness ended. `data` is JSON."""

    status: Literal["succeeded", "failed", "cancelled"]
    message: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What children get that do not say it themselves."""

    adapter: str | None = None
    model: str | None = None
    effort: str | None = None
    command: str | None = None
    """With the adapter `command`: the line that works on a prompt, which it reads from its standard input."""
    max_attempts: int | None = None
    capabilities: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Any) -> Defaults:
        """From JSON: `{"agent": {"adapter", "model", "effort", "command"}, "retry": {"maxAttempts"}, "capabilities"}`."""
        if not isinstance(given, Mapping):
            raise _bad_defaults("they are not an object")
        unknown = sorted(set(given) - {"agent", "retry", "capabilities"})
        agent, retry = given.get("agent") or {}, given.get("retry") or {}
        unknown += sorted(f"agent.{each}" for each in set(agent) - {"adapter", "model", "effort", "command"})
        unknown += sorted(f"retry.{each}" for each in set(retry) - {"maxAttempts"})
        if unknown:
            raise _bad_defaults(f"`{unknown[0]}` is not known")
        return cls(
            agent.get("adapter"), agent.get("model"), agent.get("effort"), agent.get("command"),
            retry.get("maxAttempts"), tuple(given.get("capabilities") or ()),
        )  # fmt: skip

    def over(self, other: Defaults) -> Defaults:
        """These, with the gaps filled from `other`."""
        return Defaults(
            self.adapter or other.adapter, self.model or other.model, self.effort or other.effort,
            self.command or other.command, self.max_attempts or other.max_attempts, self.capabilities or other.capabilities,
        )  # fmt: skip


Main = Callable[["Context[A]"], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Harness(Generic[A]):
    """A harness: its function and what it says of itself. `versioned`: it goes on with journals of earlier
    versions of its module, and guards what is new with `ctx.patched`."""

    main: Main[A]
    args: Any = None
    defaults: Defaults = Defaults()
    versioned: bool = False

    def arguments(self, given: Any) -> A:
        """The task's arguments as the type that it takes; raises `HarnessError` (`args_invalid`)."""
        if self.args is None:
            return {} if given is None else given  # pyright: ignore[reportReturnType]
        try:
            return converted({} if given is None else given, self.args)
        except HarnessError as error:
            raise HarnessError("args_invalid", f"the arguments do not fit: {error.message}", "see what the module takes") from error


@overload
def define_harness(main: Main[dict[str, Any]], /) -> Harness[dict[str, Any]]: ...
@overload
def define_harness(
    *, args: type[A], defaults: Defaults = Defaults(), versioned: bool = False
) -> Callable[[Main[A]], Harness[A]]: ...
@overload
def define_harness(
    *, defaults: Defaults = Defaults(), versioned: bool = False
) -> Callable[[Main[dict[str, Any]]], Harness[dict[str, Any]]]: ...
def define_harness(main: Any = None, /, *, args: Any = None, defaults: Any = Defaults(), versioned: bool = False) -> Any:
    """Make an ``async def main(ctx)`` the harness of its module. `args` is the type of `ctx.args`."""
    if main is None:
        return lambda function: Harness(function, args, defaults, versioned)
    return Harness(main)


def outcome_of(returned: Any) -> Outcome:
    """What a harness returned, its data as JSON; raises `HarnessError` (`harness_result_invalid`)."""
    if not isinstance(returned, Outcome):
        raise HarnessError(
            "harness_result_invalid", f"the harness returned {type(returned).__name__}",
            "end it with `return ctx.succeeded(...)`, `ctx.failed(...)` or `ctx.cancelled(...)`",
        )  # fmt: skip
    data = encoded(returned.data)
    size_bytes = len(json.dumps(data).encode())
    if size_bytes > DATA_BYTES_MAX:
        raise HarnessError(
            "harness_result_invalid", f"its data has {size_bytes} bytes, more than {DATA_BYTES_MAX}",
            "leave large things in outputs of children, and return their keys",
        )  # fmt: skip
    return Outcome(returned.status, returned.message, data)


def _bad_defaults(reason: str) -> HarnessError:
    return HarnessError(
        "args_invalid", f"the defaults cannot be used: {reason}",
        'write {"agent": {"adapter": "pi", "model": "...", "effort": "..."}, "retry": {"maxAttempts": 2}}',
    )  # fmt: skip
