"""The frontmatter of a workflow file: the run's own settings and the defaults of its tasks.

TOML between `+++` lines is read here; YAML between `---` lines by a reader that the caller brings,
since YAML is not in the standard library. Either gives the same few settings. Problems are reported
at the line of the file that they are about, as far as the readers tell.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from flakes.core import workflow_value as value
from flakes.core.limits import NAME_LENGTH_MAX
from flakes.core.suggestion import did_you_mean
from flakes.core.workflow_placeholder import is_placeholder_name
from flakes.core.workflow_problem import BadValue, Findings, quoted
from flakes.core.workflow_task import WorkflowBudget

FRONTMATTER_KEYS: Final = (
    "project", "runKey", "runName", "adapter", "model", "capabilities", "budget", "vars",
    "merging",
)  # fmt: skip
VARIABLE_LENGTH_MAX: Final = 2_000

YamlReader = Callable[[str], object]
_SETTING: Final = re.compile(
    r"(?P<indent>\s*)(?:\[+\s*)?"
    r"(?P<first>\"[^\"]*\"|'[^']*'|[^\s\"'=:.\[\]]+)\s*"
    r"(?:\.\s*(?P<second>\"[^\"]*\"|'[^']*'|[^\s\"'=:.\[\]]+)\s*)?[=:.\]]"
)
_TOML_LINE: Final = re.compile(r"\(at line (\d+), column \d+\)")


@dataclass(slots=True)
class Frontmatter:
    """Settings as found. `next_line` (from 1) is where the Markdown begins.

    `unreadable` says that settings may exist that could not be read, and `bad` names those whose
    value was refused: neither may lead to a second complaint about something missing.
    """

    next_line: int = 1
    unreadable: bool = False
    bad: set[str] = field(default_factory=set)
    project: str | None = None
    run_key: str | None = None
    run_name: str | None = None
    adapter: str | None = None
    model: str | None = None
    capabilities: tuple[str, ...] = ()
    budget: WorkflowBudget | None = None
    vars: dict[str, str] = field(default_factory=dict)
    merging: dict[str, object] | None = None


def read_frontmatter(
    lines: list[str], load_yaml: YamlReader | None, findings: Findings
) -> Frontmatter:
    """The frontmatter of a file, empty when there is none. Faults go to `findings`."""
    start = next((index for index, line in enumerate(lines) if line.strip()), None)
    if start is None or (mark := lines[start].rstrip()) not in ("+++", "---"):
        return Frontmatter()
    end = next((i for i in range(start + 1, len(lines)) if lines[i].rstrip() == mark), None)
    if end is None:
        findings.add(
            start + 1,
            "unclosed_frontmatter",
            f"the frontmatter that begins here with {quoted(mark)} never ends",
            f"add a line of {quoted(mark)} after the last setting",
        )
        return Frontmatter(next_line=start + 2, unreadable=True)
    block = _Block(lines[start + 1 : end], start + 2, findings)
    document = block.read_toml() if mark == "+++" else block.read_yaml(load_yaml)
    if document is None:
        return Frontmatter(next_line=end + 2, unreadable=True)
    return _settings(document, block, end + 2)


@dataclass(frozen=True, slots=True)
class _Block:
    """The lines between the marks; `first_line` is the number of the first of them in the file."""

    lines: list[str]
    first_line: int
    findings: Findings
    # Where names stand at the beginning of a line, and after an indentation or a table's name too.
    flush: dict[str, list[int]] = field(default_factory=dict)
    anywhere: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, line in enumerate(self.lines):
            if match := _SETTING.match(line):
                names = [part.strip("\"'") for part in match.group("first", "second") if part]
                for name in names:
                    self.anywhere.setdefault(name, []).append(index)
                if not match["indent"]:
                    self.flush.setdefault(names[0], []).append(index)

    def read_toml(self) -> Mapping[object, object] | None:
        try:
            # With its last line ended, an error there is at that line, not "at end of document".
            document: dict[object, object] = {}
            document.update(tomllib.loads("\n".join([*self.lines, ""])))
            return document
        except tomllib.TOMLDecodeError as error:
            found = _TOML_LINE.search(str(error))
            offset = int(found[1]) - 1 if found else len(self.lines)
            return self._syntax_error("TOML", offset, str(error).partition(" (at ")[0])
        except (ValueError, RecursionError):
            # Numbers of thousands of digits, and arrays nested as deep.
            return self._syntax_error("TOML", 0, "a value is too large")

    def read_yaml(self, load_yaml: YamlReader | None) -> Mapping[object, object] | None:
        if load_yaml is None:
            self.findings.add(
                self.first_line - 1,
                "yaml_unavailable",
                "YAML frontmatter cannot be read here",
                "write TOML between two lines of `+++`",
            )
            return None
        try:
            document = load_yaml("\n".join(self.lines))
        # The reader is foreign and its errors have no common class (YAML readers are known to let
        # lookup and arithmetic errors out as well). Whatever it raises means: this is not readable.
        except Exception as error:  # noqa: BLE001
            mark = getattr(error, "problem_mark", None)
            offset = getattr(mark, "line", None)
            reason = getattr(error, "problem", None)
            return self._syntax_error(
                "YAML",
                offset if isinstance(offset, int) else 0,
                reason if isinstance(reason, str) else "a value cannot be read",
            )
        if document is None:
            return {}
        if not isinstance(document, Mapping):
            return self._syntax_error("YAML", 0, "these are not settings (`name: value`)")
        for name in FRONTMATTER_KEYS:
            again = self.flush.get(name, [])
            if len(again) > 1:
                self.findings.add(
                    self.first_line + again[1],
                    "bad_frontmatter",
                    f"{quoted(name)} is there twice",
                    "keep one of the two",
                )
        return cast("Mapping[object, object]", document)

    def line_of(self, name: str, inside: str | None = None) -> int:
        """The line of a setting, or of a setting inside a table; else the nearest that is sure."""
        if inside is None:
            at = self.flush.get(name) or self.anywhere.get(name)
            return self.first_line + (at[0] if at else 0)
        table_line = self.line_of(inside)
        at = self.anywhere.get(name, [])
        index = bisect_left(at, table_line - self.first_line)
        return self.first_line + at[index] if index < len(at) else table_line

    def _syntax_error(self, language: str, offset: int, reason: str) -> None:
        # Past the last line means: at the mark that closes the block.
        line = self.first_line + min(max(offset, 0), len(self.lines))
        self.findings.add(
            line,
            "bad_frontmatter",
            f"the frontmatter is not {language}: {reason[:200]}",
            "quote texts, and write one setting a line: "
            + ('`project = "site"`' if language == "TOML" else "`project: site`"),
        )


def _settings(document: Mapping[object, object], block: _Block, next_line: int) -> Frontmatter:
    front = Frontmatter(next_line=next_line)
    readers: dict[str, tuple[str, Callable[[object, _Block], object]]] = {
        "project": ("project", _key),
        "runKey": ("run_key", _key),
        "runName": ("run_name", _name),
        "adapter": ("adapter", _key),
        "model": ("model", _word),
        "capabilities": ("capabilities", _capabilities),
        "budget": ("budget", _budget),
        "vars": ("vars", _variables),
        "merging": ("merging", _merging),
    }
    for name, raw in document.items():
        if not isinstance(name, str) or name not in readers:
            shown = name if isinstance(name, str) else type(name).__name__
            block.findings.add(
                block.line_of(shown),
                "unknown_frontmatter_key",
                f"the frontmatter has no setting {quoted(shown)}",
                did_you_mean(shown, FRONTMATTER_KEYS)
                or "use one of " + ", ".join(f"`{each}`" for each in FRONTMATTER_KEYS),
            )
            continue
        field_name, read = readers[name]
        try:
            setattr(front, field_name, read(raw, block))
        except BadValue as bad:
            front.bad.add(field_name)
            block.findings.add(
                block.line_of(name), "bad_frontmatter_value", f"`{name}`: {bad.message}", bad.fix
            )
    return front


def _text(raw: object, _: _Block) -> str:
    if not isinstance(raw, str):
        raise BadValue("the value is not text", "put it in quotes")
    if not value.is_storable(raw):
        raise BadValue("the value holds a character that cannot be stored", "remove it")
    if not raw.strip():
        raise BadValue("the value is empty", "write one, or remove the setting")
    return raw.strip()


def _key(raw: object, block: _Block) -> str:
    return value.key(_text(raw, block))


def _word(raw: object, block: _Block) -> str:
    return value.word(_text(raw, block))


def _name(raw: object, block: _Block) -> str:
    found = _text(raw, block)
    if "\n" in found:
        raise BadValue("the name has several lines", "write it on one line")
    if len(found) > NAME_LENGTH_MAX:
        raise BadValue(
            f"the name has {len(found)} characters; {NAME_LENGTH_MAX} are allowed", "shorten it"
        )
    return found


def _capabilities(raw: object, block: _Block) -> tuple[str, ...]:
    if isinstance(raw, list):
        joined = ",".join(_word(item, block) for item in cast("list[object]", raw))
        return value.capabilities(joined) if joined else ()
    return value.capabilities(_text(raw, block))


def _budget(raw: object, block: _Block) -> WorkflowBudget:
    if isinstance(raw, Mapping):
        parts = cast("Mapping[object, object]", raw)
        return value.budget_from({_label(name): _scalar(each) for name, each in parts.items()})
    return value.budget(_text(raw, block))


def _merging(raw: object, block: _Block) -> dict[str, object]:
    """How results are brought together, as the API takes it."""
    if not isinstance(raw, Mapping):
        raise BadValue("this is not a table", 'write `merging = { verify = ["make test"] }`')
    given = cast("Mapping[str, object]", raw)
    found: dict[str, object] = {}
    for name, each in given.items():
        if name == "promote" and isinstance(each, bool):
            found[name] = each
        elif name == "verify":
            lines = cast("list[object]", each) if isinstance(each, list) else [each]
            found[name] = [_text(line, block) for line in lines]
        elif name == "resolver" and isinstance(each, Mapping):
            resolver = dict(cast("Mapping[str, object]", each))
            if not isinstance(resolver.get("adapter"), str):
                raise BadValue(
                    "the resolver has no adapter", 'write `resolver = { adapter = "claude" }`'
                )
            found[name] = resolver
        else:
            raise BadValue(
                f"{quoted(str(name))} is not known here, or not of this kind",
                "use `promote` (true or false), `verify` (commands) and `resolver` (a table with `adapter`)",
            )
    return found


def _variables(raw: object, block: _Block) -> dict[str, str]:
    if not isinstance(raw, Mapping):
        raise BadValue("the variables are not a table", 'write `vars = { name = "value" }`')
    found: dict[str, str] = {}
    for name, each in cast("Mapping[object, object]", raw).items():
        try:
            label = _label(name)
            if not is_placeholder_name(label):
                raise BadValue(
                    f"{quoted(label)} cannot be written as a placeholder",
                    "use a letter, then letters, digits and underscores",
                )
            found[label] = _scalar(each)
            if len(found[label]) > VARIABLE_LENGTH_MAX:
                raise BadValue(
                    f"the variable {quoted(label)} has more than {VARIABLE_LENGTH_MAX} characters",
                    "put long text into the brief",
                )
        except BadValue as bad:
            block.findings.add(
                block.line_of(str(name) if isinstance(name, str) else "vars", "vars"),
                "bad_frontmatter_value",
                f"`vars`: {bad.message}",
                bad.fix,
            )
            # Known all the same, so that its placeholders are not reported as well.
            if isinstance(name, str):
                found[name] = ""
    return found


def _label(name: object) -> str:
    if not isinstance(name, str):
        raise BadValue("the name of an entry is not text", "put it in quotes")
    return name


def _scalar(raw: object) -> str:
    """The text of a single value, as a person would write it."""
    match raw:
        case bool():
            return "true" if raw else "false"
        case int() if -(2**63) <= raw < 2**63:
            return str(raw)
        case float() if abs(raw) < 1e15:
            return repr(raw)
        case str() if value.is_storable(raw):
            return raw
        case _:
            raise BadValue("the value is not a text, a number, true or false", "put it in quotes")
