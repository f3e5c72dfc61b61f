"""What children promise to leave behind, and how that is read: `ctx.output`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from flakes.core import limits
from flakes.harness.schemas import schema_of

T = TypeVar("T")
PRIMARY: Final = "result"
"""The key of the output that `output=` declares."""


@dataclass(frozen=True, slots=True)
class OutputSpec(Generic[T]):
    """A declared output. `kind_of` is what JSON is read as; `definition` what the child's task says."""

    kind: str
    kind_of: Any
    definition: dict[str, Any]


class Outputs:
    """Declarations of outputs, for `output=` and `outputs=` of a child."""

    def json(
        self, schema: type[T], *, required: bool = True, max_bytes: int = limits.OUTPUT_SIZE_BYTES_DEFAULT
    ) -> OutputSpec[T]:
        """JSON of this shape: a dataclass, TypedDict or model, or a JSON schema as it stands."""
        return OutputSpec("json", schema, _declared("json", required, max_bytes) | {"schema": schema_of(schema)})

    def text(
        self, *, required: bool = True, max_bytes: int = limits.OUTPUT_SIZE_BYTES_DEFAULT
    ) -> OutputSpec[str]:
        """A text file."""
        return OutputSpec("text", str, _declared("text", required, max_bytes))

    def workspace(self, paths: Sequence[str] = (), *, required: bool = True) -> OutputSpec[None]:
        """The child's working directory, or these paths of it, as an immutable workspace."""
        definition = {"kind": "workspace", "required": required}
        return OutputSpec("workspace", None, definition | ({"paths": list(paths)} if paths else {}))


def spec_of(output: Any) -> OutputSpec[Any] | None:
    """What a user gave as an output: a declaration, `str`, or a type that JSON is read as."""
    if output is None or isinstance(output, OutputSpec):
        return output
    return Outputs().text() if output is str else Outputs().json(output)


def _declared(kind: str, required: bool, max_bytes: int) -> dict[str, Any]:
    declared: dict[str, Any] = {"kind": kind, "required": required}
    return declared | ({"maxBytes": max_bytes} if max_bytes != limits.OUTPUT_SIZE_BYTES_DEFAULT else {})
