"""What a user interface shows besides the resources themselves: a run's picture, rendered text, the documentation."""

from __future__ import annotations

from urllib.parse import quote

from flakes.client.transport import Transport
from flakes.wire import documents, layout, tasks


class PictureMethods:
    """The part of `Client` that user interfaces draw from."""

    _transport: Transport

    async def run_attempts(
        self, run: str, *, limit: int | None = None, cursor: str | None = None
    ) -> tasks.RunAttempts:
        """Attempts of all its tasks, oldest first; a page is at most 10,000 long."""
        params = {"limit": limit, "cursor": cursor}
        path = f"/v1/runs/{quote(run, safe='')}/attempts"
        return await self._transport.call("GET", path, tasks.RunAttempts, params=params)

    async def run_layout(self, run: str) -> layout.Layout:
        """Where its tasks are drawn, from left to right."""
        path = f"/v1/runs/{quote(run, safe='')}/layout"
        return await self._transport.call("GET", path, layout.Layout)

    async def render_markdown(self, text: str) -> documents.Rendered:
        """HTML of Markdown, safe to put into a page."""
        body = documents.MarkdownPost(markdown=text)
        path = "/v1/markdown"
        return await self._transport.call("POST", path, documents.Rendered, body=body, idempotent=True)

    async def check_workflow(
        self, text: str, *, adapter: str | None = None
    ) -> documents.WorkflowChecked:
        """The problems of a workflow file, or the tasks it means."""
        body = documents.WorkflowPost(text=text, adapter=adapter)
        path = "/v1/workflows/check"
        return await self._transport.call(
            "POST", path, documents.WorkflowChecked, body=body, idempotent=True
        )

    async def list_documents(self, words: str | None = None) -> documents.Documents:
        """The pages of the server's documentation; with words, also the parts that hold them."""
        params = {"q": words} if words else None
        return await self._transport.call("GET", "/v1/docs", documents.Documents, params=params)

    async def get_document(self, section: str, document: str) -> documents.DocumentPage:
        """One page, rendered."""
        path = f"/v1/docs/{quote(section, safe='')}/{quote(document, safe='')}"
        return await self._transport.call("GET", path, documents.DocumentPage)
