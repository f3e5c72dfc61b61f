"""Markdown to HTML that is safe to show: raw HTML is text, and what comes out passes a second sanitizer.

Images are left out: a page of the console loads nothing from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from flakes.console.assets import BASE
from flakes.console.documents import slug

TAGS: Final = {
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p",
    "pre", "s", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
ATTRIBUTES: Final = {
    "a": {"href", "title"}, "code": {"class"}, "li": {"class"}, "ol": {"start"}, "span": {"class"},
    **{f"h{level}": {"id"} for level in range(1, 7)},
}  # fmt: skip
HIGHLIGHTED_BYTES_MAX: Final = 20_000
_BOXES: Final = {"[ ] ": "☐ ", "[x] ": "☑ ", "[X] ": "☑ "}


def render(text: str) -> str:
    """HTML of what somebody wrote. Its links open elsewhere and say nothing about us."""
    return nh3.clean(
        _parser().render(text), tags=TAGS, attributes=ATTRIBUTES, url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow", set_tag_attribute_values={"a": {"target": "_blank"}},
    )  # fmt: skip


def render_document(text: str, path: str) -> str:
    """HTML of a page of our own documentation: headings have anchors, links lead to pages of the console."""
    parser = _parser()
    parser.core.ruler.push("documents", _document_rule(path.split("/", maxsplit=1)[0]))
    return nh3.clean(
        parser.render(text), tags=TAGS, attributes=ATTRIBUTES, url_schemes={"http", "https"}, link_rel=None,
    )  # fmt: skip


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "highlight": _highlight})
    parser.enable(["table", "strikethrough"]).disable("image")
    parser.core.ruler.push("boxes", _boxes)
    return parser


def _boxes(state: StateCore) -> None:
    """`- [x] done` as a list item with a box."""
    tokens = state.tokens
    for number in range(2, len(tokens)):
        inline = tokens[number]
        if inline.type != "inline" or tokens[number - 2].type != "list_item_open":
            continue
        first = inline.children[0] if inline.children else None
        if first is not None and first.type == "text" and first.content[:4] in _BOXES:
            first.content = _BOXES[first.content[:4]] + first.content[4:]
            tokens[number - 2].attrSet("class", "box")


def _document_rule(section: str) -> Any:
    def rule(state: StateCore) -> None:
        for number, token in enumerate(state.tokens):
            if token.type == "heading_open":
                token.attrSet("id", slug(_text(state.tokens[number + 1].children or [])))
            for child in token.children or []:
                if child.type == "link_open":
                    child.attrSet("href", _address(str(child.attrGet("href")), section))

    return rule


def _text(tokens: Sequence[Token]) -> str:
    return "".join(token.content for token in tokens if token.type in ("text", "code_inline"))


def _address(href: str, section: str) -> str:
    target, mark, anchor = href.partition("#")
    if "://" in target or not target.endswith(".md"):
        return href
    parts = [part for part in target[:-3].split("/") if part not in (".", "..", "docs")]
    page = "/".join(parts if len(parts) > 1 else [section, *parts])
    return f"{BASE}/docs/{page}{mark}{anchor}"


def _highlight(code: str, language: str, _: str) -> str:
    if not language or len(code) > HIGHLIGHTED_BYTES_MAX:
        return escapeHtml(code)
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return escapeHtml(code)
    return highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix="hl-"))
