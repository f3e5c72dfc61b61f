"""Real commits for the console to show: files as a run begins with them, and as its tasks leave them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from api.caller import Api
from api.routes import artifact_of
from flakes.wire.sandbox_stream import Assignment
from flakes.workspace.capture import capture
from flakes.workspace.commits import commit
from flakes.workspace.git import Git
from flakes.workspace.packs import pack

Edit = Callable[[Path], object]


class Files:
    """A repository of its own in a directory, from which files are stored as an account or as a sandbox."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._git = Git.at(directory / "objects.git")
        self._first = directory / "first"
        self._packs: list[dict[str, Any]] = []
        self._commit = ""
        self._count = 0
        self.workspace_id = ""

    def begin(self, api: Api, edit: Edit) -> str:
        """The files that a run begins with; their handle."""
        self._first.mkdir(parents=True)
        edit(self._first)
        made, tree, content = self._pack(self._first, [])
        artifact = api.post("/v1/artifacts", artifact_of(content) | {"kind": "workspace-pack"}).ok(201)
        self._packs = [{"digest": artifact["digest"], "sizeBytes": len(content)}]
        body = {"commit": made, "tree": tree, "packs": self._packs}
        self._commit = made
        self.workspace_id = api.post("/v1/workspaces", body).ok()["workspaceId"]
        return self.workspace_id

    def leave(self, api: Api, sandbox_id: str, given: Assignment, edit: Edit) -> str:
        """What a task made of those files, stored as the sandbox whose credential `api` has."""
        self._count += 1
        place = self._directory / f"left-{self._count}"
        shutil.copytree(self._first, place, symlinks=True)
        edit(place)
        made, tree, content = self._pack(place, [self._commit])
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        side = f"/v1/sandboxes/{sandbox_id}"
        api.call("PUT", f"{side}/packs/{digest}", content=content).ok(201)
        listed = self._git.text("diff-tree", "-r", "--name-status", "--no-renames", self._commit, made)
        kinds = {"A": "added", "M": "changed", "T": "changed", "D": "removed"}
        pairs = [line.split("\t") for line in listed.splitlines()]
        changes = [{"path": path, "kind": kinds[letter]} for letter, path in pairs]
        body = {
            "commit": made, "tree": tree, "kind": "candidate", "baseWorkspaceId": self.workspace_id,
            "packs": [*self._packs, {"digest": digest, "sizeBytes": len(content)}],
            "changes": changes, "changeCount": len(changes),
        }  # fmt: skip
        path = f"{side}/assignments/{given.assignment_id}/workspaces"
        return api.post(path, body).ok(201)["workspaceId"]

    def _pack(self, place: Path, parents: list[str]) -> tuple[str, str, bytes]:
        tree = capture(self._git.over(place, self._directory / f"index-{place.name}"))
        made = commit(self._git, tree, place.name, parents=parents)
        path = self._directory / f"{place.name}.pack"
        pack(self._git, made, without=parents, to=path)
        return made, tree, path.read_bytes()


CART = """\"\"\"The cart, and what it costs.\"\"\"

from shop.money import Money


class Cart:
    def __init__(self, rows):
        self.rows = rows

    def total(self):
        total = Money(0)
        for row in self.rows:
            total += row.price * row.count
        return total

    def pay(self, api):
        return api.charge(self.total())
"""
GUIDE = "".join(f"{n}. Step {n} of setting the shop up.\n" for n in range(1, 30))


def shop(root: Path) -> None:
    """The files of a small shop."""
    write(root, "src/shop/cart.py", CART)
    write(root, "src/shop/money.py", "class Money:\n    def __init__(self, cents):\n        self.cents = cents\n")
    write(root, "docs/set-up.md", GUIDE)
    write(root, "docs/old.md", "Nobody reads this.\n")
    write(root, "tools/run.sh", "#!/bin/sh\nexec python -m shop\n")
    write(root, "README.md", "# Shop\n\nPay with a card.\n")
    (root / "logo.png").write_bytes(b"\x89PNG\r\n\0" + bytes(range(200)))


def payment(root: Path) -> None:
    """One of everything that can happen to a file."""
    text = CART.replace("return api.charge(self.total())", "return api.charge(self.total(), key=self.key())")
    text = text.replace("total += row.price * row.count", "total += row.price * row.count - row.discount")
    write(root, "src/shop/cart.py", text + "\n    def key(self):\n        return hash(tuple(self.rows))\n")
    write(root, "src/shop/keys.py", "def fresh():\n    ...")
    write(root, "tests/data/orders.csv", "".join(f"{n},{n * 7 % 97},open\n" for n in range(1_200)))
    write(root, "tests/data/huge.csv", "0123456789\n" * 120_000)
    (root / "docs" / "old.md").unlink()
    (root / "docs" / "guide").mkdir()
    (root / "docs" / "set-up.md").rename(root / "docs" / "guide" / "install.md")
    (root / "tools" / "run.sh").chmod(0o755)
    (root / "latest").symlink_to("docs/guide")
    (root / "logo.png").write_bytes(b"\x89PNG\r\n\0" + bytes(range(255)))
    write(root, "README.md", "# Shop\n\nPay with a card, or by invoice.\n")


def wording(root: Path) -> None:
    """What does not merge with `payment`."""
    write(root, "README.md", "# Shop\n\nPay with whatever you have.\n")


def tests(root: Path) -> None:
    write(root, "tests/test_cart.py", "def test_nothing_costs_nothing():\n    assert Cart([]).total() == Money(0)\n")


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
