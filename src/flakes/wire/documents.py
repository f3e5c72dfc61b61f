"""Markdown, workflow files that are being written, and the documentation, as the API shows them."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen
from flakes.wire.layout import Layout


class MarkdownPost(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/markdown`: at most as long as a workpad."""

    markdown: Annotated[str, Meta(max_length=limits.WORKPAD_SIZE_BYTES_MAX)]


class Rendered(Frozen, frozen=True, kw_only=True):
    """HTML that is safe to put into a page: no script, no style, no image."""

    html: str


class WorkflowPost(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/workflows/check`. `adapter` is for tasks that name none."""

    text: Annotated[str, Meta(max_length=4 * limits.MIB)]
    adapter: str | None = None


class WorkflowProblem(Frozen, frozen=True, kw_only=True):
    """One fault, at a line that counts from 1."""

    line: int
    code: str
    message: str
    fix: str


class WorkflowChecked(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """Either problems, or the tasks as `POST /v1/runs/:runKey/graph` takes them and how they would be drawn."""

    ok: bool
    problems: list[WorkflowProblem] = []
    tasks: list[dict[str, Any]] = []
    layout: Layout | None = None
    project_key: str | None = None
    run_key: str | None = None
    name: str | None = None
    budget: dict[str, Any] | None = None


class Document(Frozen, frozen=True, kw_only=True):
    """A page of the documentation in the list of them."""

    path: str
    section: str
    title: str


class DocumentHit(Frozen, frozen=True, kw_only=True):
    """A part of a page that a search found."""

    path: str
    title: str
    heading: str
    anchor: str
    excerpt: str


class Documents(Frozen, frozen=True, kw_only=True):
    """Every page in the order of reading; with a query, what it found too."""

    documents: list[Document]
    hits: list[DocumentHit]


class DocumentPage(Frozen, frozen=True, kw_only=True):
    """One page, rendered."""

    path: str
    section: str
    title: str
    html: str
