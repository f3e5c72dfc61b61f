"""Routes for reading and writing text: Markdown as HTML, workflow files checked, the documentation."""

from __future__ import annotations

import asyncio
from functools import cache

import msgspec
import yaml

from flakes.console import documents
from flakes.core import limits
from flakes.core.layout import layout
from flakes.core.workflow_file import (
    Problem,
    WorkflowFileError,
    budget_definition,
    parse,
    to_definitions,
)
from flakes.server import markdown
from flakes.server.routing import Call, Endpoint
from flakes.wire import layout as drawing
from flakes.wire.documents import (
    Document,
    DocumentHit,
    DocumentPage,
    Documents,
    MarkdownPost,
    Rendered,
    WorkflowChecked,
    WorkflowPost,
    WorkflowProblem,
)
from flakes.wire.errors import not_found


class DocumentsQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of the documentation: words that a part of a page must hold."""

    q: str = ""


async def render(call: Call) -> Rendered:
    """Render Markdown to HTML that is safe to show."""
    return Rendered(html=await asyncio.to_thread(markdown.render, call.body.markdown))


async def check(call: Call) -> WorkflowChecked:
    """Check a workflow file as `flakes run --check` does, without reading what it names."""
    return await asyncio.to_thread(_checked, call.body)


def _checked(body: WorkflowPost) -> WorkflowChecked:
    try:
        workflow = parse(body.text, load_yaml=yaml.safe_load, default_adapter=body.adapter)
    except WorkflowFileError as error:
        return WorkflowChecked(ok=False, problems=[_problem(each) for each in error.problems])
    unread = [
        Problem(
            task.line, "file_not_at_hand", f"the task {task.key} names a file, which only the command line can read",
            "run the workflow with `flakes run`",
        )
        for task in workflow.tasks
        if task.harness_file or task.args_file
    ]  # fmt: skip
    if unread:
        return WorkflowChecked(ok=False, problems=[_problem(each) for each in unread])
    drawn = layout({task.key: task.depends_on for task in workflow.tasks})
    name = workflow.run_name or workflow.title
    return WorkflowChecked(
        ok=True, tasks=to_definitions(workflow), layout=drawing.of(drawn),
        project_key=workflow.project, run_key=workflow.run_key,
        name=name[: limits.NAME_LENGTH_MAX] if name else None,
        budget=None if workflow.budget is None else budget_definition(workflow.budget),
    )  # fmt: skip


def _problem(problem: Problem) -> WorkflowProblem:
    return WorkflowProblem(line=problem.line, code=problem.code, message=problem.message, fix=problem.fix)


async def contents(call: Call) -> Documents:
    """List the pages of the documentation; with `q`, also the parts that hold its words."""
    return Documents(
        documents=[
            Document(path=page.path, section=page.section, title=page.title)
            for page in documents.pages().values()
        ],
        hits=[
            DocumentHit(
                path=hit.page.path, title=hit.page.title, heading=hit.heading, anchor=hit.anchor,
                excerpt=hit.excerpt,
            )
            for hit in documents.search(call.query.q[:200])
        ],
    )  # fmt: skip


async def page(call: Call) -> DocumentPage:
    """Read a page of the documentation, rendered."""
    path = f"{call.path['section']}/{call.path['document']}"
    found = documents.pages().get(path)
    if found is None:
        raise not_found("page")
    html = await asyncio.to_thread(_rendered, path)
    return DocumentPage(path=path, section=found.section, title=found.title, html=html)


@cache
def _rendered(path: str) -> str:
    return markdown.render_document(documents.pages()[path].text, path)


# What changes nothing takes no Idempotency-Key.
ENDPOINTS = [
    Endpoint("POST", "/v1/markdown", render, Rendered, MarkdownPost, tag="documents", waits=True),
    Endpoint("POST", "/v1/workflows/check", check, WorkflowChecked, WorkflowPost, tag="documents", waits=True),
    Endpoint("GET", "/v1/docs", contents, Documents, query=DocumentsQuery, family=None, tag="documents"),
    Endpoint("GET", "/v1/docs/{section}/{document}", page, DocumentPage, family=None, tag="documents"),
]  # fmt: skip
