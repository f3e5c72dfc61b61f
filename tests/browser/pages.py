"""Every page of the console with the scene in it, by name: what is measured, and what is photographed."""

from __future__ import annotations

from typing import Any

from browser.scene import Scene

SIGNED_OUT = {path[1:]: path for path in ("/sign-in", "/sign-up", "/verify", "/forgot", "/reset")}


def addresses(scene: Scene) -> dict[str, str]:
    """Addresses inside the console, of whoever is signed in."""
    run, task = f"/runs/{scene.release}", f"/runs/{scene.release}/tasks/payments"
    return {
        "runs": "/runs", "runs-none": "/runs?q=nothing-is-called-so", "run": run, "run-timeline": f"{run}?view=timeline",
        "run-sandboxes": f"{run}?view=sandboxes", "run-results": f"{run}?tab=results",
        "run-artifacts": f"/runs/{scene.done}?tab=artifacts", "run-metrics": f"{run}?tab=metrics",
        "run-files": f"{run}?tab=files", "run-promotions": f"/runs/{scene.changed}?tab=promotions",
        "run-changes": f"/runs/{scene.changed}?tab=changes", "task-changes": f"/runs/{scene.changed}/tasks/wording?tab=changes", "task-children": f"{task}?tab=children", "run-big": f"/runs/{scene.big}", "run-stalled": f"/runs/{scene.stalled}",
        "run-missing": "/runs/there-is-none", "task-brief": f"{task}?tab=brief", "task-transcript": f"{task}?tab=transcript",
        "task-raw": f"{task}?tab=transcript&form=raw", "task-log": f"{task}?tab=log", "task-workpad": f"{task}?tab=workpad",
        "task-messages": f"{task}?tab=messages", "task-activity": f"{task}?tab=activity",
        "task-result": f"{run}/tasks/copy", "task-failed": f"{run}/tasks/schema", "task-queued": f"{run}/tasks/mobile",
        "task-blocked": f"{run}/tasks/announce", "inbox": "/inbox", "new-run": "/new", "new-run-file": "/new?kind=file",
        "projects": "/projects", "project": "/projects/app", "hosts": "/hosts", "host": f"/hosts/{scene.host_id}",
        "sandboxes": "/sandboxes", "sandbox": f"/sandboxes/{scene.sandbox_id}", "account": "/account",
        "security": "/account?tab=security", "keys": "/account?tab=keys", "device": "/device", "docs": "/docs",
        "docs-reference": "/docs/reference/workflow-file", "docs-search": "/docs?q=workpad", "no-such-page": "/nowhere",
    }  # fmt: skip


def turn_to(page: Any, path: str) -> None:
    """Show another page without loading the console anew, and wait until everything on it was read."""
    page.evaluate(
        """async (path) => {
            history.pushState(null, "", "/console" + path);
            dispatchEvent(new PopStateEvent("popstate"));
            const quiet = () => document.querySelector("h1") && !document.querySelector(".loading, .boot");
            const end = performance.now() + 30_000;
            for (let calm = 0; calm < 3 && performance.now() < end;) {
                await new Promise((done) => setTimeout(done, 20));
                calm = quiet() ? calm + 1 : 0;
            }
        }""",
        path,
    )
