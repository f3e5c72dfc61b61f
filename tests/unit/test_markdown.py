"""What somebody wrote becomes HTML that can do nothing: hostile Markdown, and the shape of what is left."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flakes.server.markdown import ATTRIBUTES, TAGS, render, render_document

HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>", "<iframe src=//evil.example></iframe>",
    "[x](javascript:alert(1))", "[x](JaVaScRiPt:alert(1))", "[x](&#106;avascript:alert(1))", "[x](java\nscript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)", "[x](vbscript:msgbox(1))", "![x](https://evil.example/pixel.png)",
    '[x](https://ok.example "onmouseover=alert(1)")', '[x](<https://ok.example" onclick="alert(1)>)', "<https://evil.example/\"onclick=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>", "<style>*{display:none}</style>", "<form action=//evil.example><input name=a></form>",
    "<base href=//evil.example>", "<meta http-equiv=refresh content=0>", "<math><mtext></mtext><mglyph><svg><mtext></svg></math>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>", "<!--><img src=x onerror=alert(1)>-->",
    "```html\n<script>alert(1)</script>\n```", "```x\" onclick=\"alert(1)\n1\n```", "`<script>`", "&lt;script&gt;",
    "| a |\n| --- |\n| <b onclick=x>y</b> |", "[ref]\n\n[ref]: javascript:alert(1)", "# <img src=x onerror=alert(1)>", "x\x00<script>",
    "<a id=app>", "<div id=main class=shell>", "<p style='position:fixed'>", "<details open ontoggle=alert(1)>",
]  # fmt: skip


class Seen(HTMLParser):
    """Tags and attributes as a parser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def check(html: str) -> None:
    for tag, attributes in Seen(html).tags:
        assert tag in TAGS, html
        allowed = ATTRIBUTES.get(tag, set()) | ({"rel", "target"} if tag == "a" else set())
        assert attributes.keys() <= allowed, html
        href = attributes.get("href")
        assert href is None or re.match(r"(https?:|mailto:|[^:]*$|[/#?])", href), html


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_does_nothing(text: str) -> None:
    check(render(text))
    check(render_document(text, "guide/page"))


@given(
    st.lists(
        st.sampled_from(
            [*HOSTILE, "\n", "> ", "- ", "**", "`", "](", "<", '"', "'", "|", "\\", "&#x6A;"]
        ),
        max_size=8,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_mixture_of_it_does_anything(parts: list[str]) -> None:
    check(render("".join(parts)))


@given(st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_text_is_rendered(text: str) -> None:
    check(render(text))


def test_what_people_write_stays() -> None:
    html = render(
        "# Title\n\n- [x] done\n- [ ] open\n\n**bold** ~~gone~~ `code` [link](https://ok.example/a?b=1)\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    )
    for part in (
        "<h1>Title</h1>",
        '<li class="box">☑ done</li>',
        "<strong>bold</strong>",
        "<s>gone</s>",
        "<code>code</code>",
        "<td>2</td>",
    ):
        assert part in html, part
    assert 'rel="noopener noreferrer nofollow"' in html
    assert 'target="_blank"' in html


def test_code_is_highlighted_with_classes_alone() -> None:
    html = render("```python\ndef f(): return '<b>'\n```")
    assert 'class="hl-k"' in html
    assert "style=" not in html
    assert "&lt;b&gt;" in html
    assert "<pre><code" in render("```there-is-no-such-language\nx\n```")


def test_documents_lead_to_pages_of_the_console() -> None:
    html = render_document(
        "# A Page\n\n[other](other.md#part) [ref](../reference/cli.md) [out](https://ok.example)",
        "guide/page",
    )
    assert '<h1 id="a-page">' in html
    assert 'href="/console/docs/guide/other#part"' in html
    assert 'href="/console/docs/reference/cli"' in html
    assert 'href="https://ok.example"' in html
