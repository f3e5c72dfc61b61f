"""What a run changed in its files: a real run in a real repository, with a conflict, on a real machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from api.caller import Api, name
from browser.conftest import Open
from browser.files import Files, shop, write
from browser.test_fleet import attic
from embedded_servers import wait_until

__all__ = ["attic"]

PAYMENT = """
until [ -e {signal}/payment ]; do sleep 0.05; done
printf '# Shop\\n\\nPay with a card, or by invoice.\\n' > README.md
sed -i 's/api.charge(self.total())/api.charge(self.total(), key=1)/' src/shop/cart.py
mkdir docs/guide && git mv docs/set-up.md docs/guide/install.md && rm docs/old.md
chmod +x tools/run.sh && ln -s docs/guide latest && head -c 300 /dev/zero > logo.png
printf 'no end of line' > src/shop/keys.py
seq 1 1200 > numbers.txt && seq 1 300000 > huge.txt
"""
WORDING = """
until [ -e {signal}/wording ]; do sleep 0.05; done
printf '# Shop\\n\\nPay with whatever you have.\\n' > README.md
"""


def rows(page: Any, name: str) -> list[str]:
    return page.eval_on_selector_all(f"section.section:has(> h2:text-is('{name}')) tbody tr", "all => all.map(r => r.innerText)")


@pytest.mark.usefixtures("attic")
def test_what_a_run_changed_is_read_and_taken(visit: Open, api: Api, tmp_path: Path, attic: str) -> None:
    project, run = api.project(), name("run")
    root = tmp_path / "projects" / project
    root.mkdir(parents=True)
    api.put(f"/v1/hosts/{attic}/project-workspace-root", {"path": str(root.parent)}).ok()
    wait_until(lambda: api.get(f"/v1/hosts/{attic}/pools").ok()["hostPools"])
    binding = api.put(f"/v1/hosts/{attic}/project-bindings/{project}", {"poolKeys": ["shell"]})
    assert binding.status in (200, 201), binding.json
    tasks = [
        {"taskKey": key, "title": key.title(), "adapter": "command", "input": {"shell": script.format(signal=tmp_path)}}
        for key, script in (("payment", PAYMENT), ("wording", WORDING))
    ]
    first = Files(tmp_path / "files").begin(api, shop)
    graph = {"name": "Invoices", "projectKey": project, "tasks": tasks, "workspaceId": first, "close": True}
    api.post(f"/v1/runs/{run}/graph", graph).ok(201)

    page = visit(f"/runs/{run}?tab=changes")
    page.wait_for_selector("text=Nothing is selected but what the run began with")
    page.wait_for_selector(".head-facts:has-text('0 of 2')")
    wait_running(page)
    (tmp_path / "payment").touch()
    page.wait_for_selector("text=What came in of its tasks")
    page.wait_for_selector(".diff-sum:has-text('10 files')")
    named = json.loads(page.evaluate("JSON.stringify([...document.querySelectorAll('.diff-file')].map(f => [f.dataset.file, f.textContent]))"))
    told = dict(named)
    assert list(told) == sorted(told)
    for path, words in {
        "README.md": "or by invoice", "docs/guide/install.md": "moved as it was", "docs/old.md": "Nobody reads this",
        "tools/run.sh": "made executable", "latest": "symbolic link", "logo.png": "Not text", "huge.txt": "Too large to show here",
        "src/shop/keys.py": "No newline at end of file", "src/shop/cart.py": "key=1", "numbers.txt": "Show the other 800 lines",
    }.items():  # fmt: skip
        assert words in told[path], (path, told[path])
    assert "docs/set-up.md → docs/guide/install.md" in told["docs/guide/install.md"]
    assert page.locator("[data-file='src/shop/cart.py'] mark").all_text_contents() == [", key=1"]
    page.click("text=Show the other 800 lines")
    page.wait_for_selector("[data-file='numbers.txt'] .diff-code:has-text('1200')")

    # The keyboard goes from file to file, each of which has an address.
    page.evaluate("scrollTo(0, 0)")
    page.keyboard.press("j")
    page.wait_for_url("**file=README.md")
    page.keyboard.press("j")
    page.wait_for_url("**file=docs%2Fguide%2Finstall.md")
    page.keyboard.press("k")
    page.wait_for_url("**file=README.md")
    page.click(".diff-files a:has-text('cart.py')")
    page.wait_for_selector("[data-file='src/shop/cart.py'].chosen")
    page.reload()
    page.wait_for_selector("[data-file='src/shop/cart.py'] a:focus")
    assert page.evaluate("const at = document.querySelector('.diff-file.chosen').getBoundingClientRect(); at.top >= 0 && at.bottom <= innerHeight")

    # What comes later and does not merge stays, and says how it can be had.
    (tmp_path / "wording").touch()
    page.wait_for_selector(".state-line:has-text('Succeeded')")
    page.click("role=tab[name=Promotions]")
    page.wait_for_selector(".candidate:has-text('Conflict'):has-text('README.md')")
    page.wait_for_selector(".candidate:has-text('Promoted'):has-text('Payment')")
    page.wait_for_selector(f"code:text-is('flakes apply {run}/wording --3way')")
    history = rows(page, "Promotions")
    assert ["payment" in history[0], "whole" in history[0], "began with it" in history[1], "you" in history[1]] == [True] * 4
    page.click("text=What changed in version 2")
    page.wait_for_selector(".diff-sum:has-text('10 files')")
    page.go_back()
    page.click(".candidate:has-text('Conflict') >> text=1 path changed")
    page.wait_for_selector(".notice.warn:has-text('Conflict') button:has-text('README.md')")
    page.wait_for_selector(".diff-code:has-text('whatever you have')")
    page.goto(f"{api.url}/console/runs/{run}/tasks/wording")
    page.click(".head-facts .fate a:has-text('Conflict')")
    page.wait_for_selector(".notice:has-text('does not merge')")
    page.wait_for_selector(".diff-file:has-text('whatever you have')")
    page.set_viewport_size({"width": 360, "height": 780})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def wait_running(page: Any) -> None:
    """Both have begun, with the same files."""
    page.wait_for_function("() => document.querySelector('.run-bar [role=img]').getAttribute('aria-label').includes('2 running')")


def test_a_file_of_a_later_page_has_an_address(visit: Open, api: Api, tmp_path: Path) -> None:
    place = Files(tmp_path / "files")
    base = place.begin(api, shop)
    run = name("run")
    graph = {"name": "Many", "projectKey": api.project(), "tasks": [{"taskKey": "a", "title": "a", "adapter": "nobody"}], "workspaceId": base}
    api.post(f"/v1/runs/{run}/graph", graph).ok(201)
    other = Files(tmp_path / "other")
    new = other.begin(api, lambda root: [write(root, f"made/{n:03}.txt", f"{n}\n") for n in range(130)])
    page = visit(f"/runs/{run}?tab=changes&of={new}&base={base}&file=made/120.txt")
    page.wait_for_selector("[data-file='made/120.txt'] a:focus")
    assert page.locator(".diff-file").count() <= 150
    page.goto(f"{api.url}/console/runs/{run}?tab=changes&of={new}&base={base}&file=nowhere")
    page.wait_for_selector("text=No file of that name differs")
