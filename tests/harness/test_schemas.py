"""JSON schemas of types, and values from JSON."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict

import jsonschema_rs
import pytest

from flakes.harness.errors import HarnessError
from flakes.harness.schemas import converted, encoded, schema_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Leaf:
    size: int
    colour: Colour = Colour.RED


@dataclass
class Tree:
    name: str
    leaves: list[Leaf]
    below: list[Tree] = field(default_factory=list)
    weight: float | None = None
    pair: tuple[int, str] = (0, "")


class Options(TypedDict):
    mode: Literal["fast", "slow"]
    tags: NotRequired[dict[str, int]]


class Model:
    """Looks like a pydantic model."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return {"type": "object", "required": ["value"]}

    @classmethod
    def model_validate(cls, value: Any) -> Model:
        if "value" not in value:
            raise ValueError("value is missing")
        return cls(value["value"])

    def model_dump(self, mode: str) -> dict[str, Any]:
        return {"value": self.value}


GOOD: list[tuple[Any, Any]] = [
    (Tree, {"name": "a", "leaves": [{"size": 1, "colour": "blue"}], "below": [{"name": "b", "leaves": []}], "weight": 2, "pair": [1, "x"]}),
    (Options, {"mode": "fast", "tags": {"a": 1}}),
    (list[int | None], [1, None]),
    (dict[str, Any], {"a": [1]}),
    (tuple[int, ...], [1, 2]),
    (Model, {"value": 3}),
    ({"type": "string"}, "x"),
]  # fmt: skip
BAD: list[tuple[Any, Any, str]] = [
    (Tree, {"name": "a"}, "leaves"), (Tree, {"name": 1, "leaves": []}, "name"),
    (Tree, {"name": "a", "leaves": [{"size": "1"}]}, "leaves[0].size"),
    (Tree, {"name": "a", "leaves": [], "leafs": []}, "leafs"), (Options, {"mode": "quick"}, "mode"),
    (list[int], [True], "[0]"), (Colour, "green", "the value"), (Model, {}, "value is missing"),
    (tuple[int, str], [1], "2 items"), (int | str, 1.5, "int or str"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), GOOD)
def test_what_is_good_passes_the_schema_and_comes_back_the_same(kind: Any, value: Any) -> None:
    assert jsonschema_rs.is_valid(schema_of(kind), value)
    found = converted(value, kind)
    assert converted(encoded(found), kind) == found or isinstance(found, Model)


@pytest.mark.parametrize(("kind", "value", "words"), BAD)
def test_what_is_bad_is_named_by_its_path(kind: Any, value: Any, words: str) -> None:
    assert not jsonschema_rs.is_valid(schema_of(kind), value)
    with pytest.raises(HarnessError) as caught:
        converted(value, kind)
    assert caught.value.code == "output_schema_mismatch"
    assert words in caught.value.message


@pytest.mark.parametrize("kind", [object(), set, dict[int, str], bytes])
def test_types_without_json_are_refused(kind: Any) -> None:
    with pytest.raises(HarnessError) as caught:
        schema_of(kind)
    assert caught.value.code == "schema_unsupported"
