"""A harness in an isolated pool: it works as ever, sees nothing of the machine, and ends at its limits with a reason."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from e2e.stage import Stage, until
from flakes.wire.tasks import TaskResult
from sandbox.bwrap import needs_bubblewrap

pytestmark = [needs_bubblewrap, pytest.mark.timeout(240)]

SECRET = "secret-of-the-pool-7c31"
HEAD = "import asyncio, time\nfrom flakes.harness import Context, define_harness\n\n@define_harness\nasync def main(ctx: Context):\n"
PEEKS = '''
    # What the rules do not know the way to: the library's own modules.
    os, socket, seen = asyncio.base_events.os, asyncio.base_events.socket, {}
    seen["names"] = sorted(os.environ)
    seen["there"] = [path for path in ctx.args["paths"] if os.path.exists(path)]
    seen["processes"] = len([name for name in os.listdir("/proc") if name.isdigit()])
    for name, address in ctx.args["addresses"].items():
        try:
            socket.create_connection(address, timeout=5).close()
            seen[name] = "reached"
        except OSError as error:
            seen[name] = "not reached"
    try:
        os.kill(1, 9)
        os.kill(ctx.args["pid"], 0)
        seen["daemon"] = "there"
    except OSError:
        seen["daemon"] = "not there"
    return ctx.succeeded(**seen)
'''


@pytest.fixture(scope="module")
def isolated(stage: Stage) -> Stage:
    """A session whose harnesses are isolated, in a pool that has a secret in its environment."""
    stage.up()
    config = stage.layout.host_config
    head, at, pool = config.read_text().partition('poolKey = "local-harness"')
    pool = pool.replace('provider = "process"', 'provider = "bubblewrap"')
    more = f'\n[pools.resourceBounds]\nmemoryMb = 512\n\n[pools.env]\nMODEL_API_KEY = "{SECRET}"\n'
    config.write_text(f"{head}{at}{pool}{more}")
    stage.kill("host")
    with stage.client() as client:
        host = client.list_hosts().hosts[0].host_id
        until(lambda: any(each.provider == "bubblewrap" for each in client.host_pools(host).host_pools), 60, "the pool")
    return stage


def submit(session: Stage, key: str, body: str, **work: Any) -> None:
    session.submit(key, [{
        "taskKey": "plan", "adapter": "harness", "toolGrants": ["flakes.tasks.spawn", "flakes.groups"],
        "input": {"source": HEAD + body, "harnessFile": "plan.py"} | work,
        "declaredOutputs": {"result": {"kind": "json", "required": False}},
    }])  # fmt: skip


def result(session: Stage, key: str) -> TaskResult:
    session.wait(key, 120)
    with session.client() as client:
        return client.result(client.task_id(f"{key}/plan"))


def fix(found: TaskResult) -> str:
    return str(((found.error and found.error.details) or {}).get("fix", ""))


def data(session: Stage, key: str) -> Any:
    found = result(session, key)
    assert found.status == "SUCCEEDED", (found.error, session.flakes("logs", f"{key}/plan").out)
    return json.loads(found.outputs["result"].text or "null")


def test_it_works_and_sees_nothing_of_the_machine(isolated: Stage) -> None:
    submit(isolated, "works", '''
    two = await ctx.all(ctx.command(f"echo {n}", title=f"Say {n}") for n in range(2))
    await ctx.sleep(1.5)
    third = await ctx.command("cat", inputs=two)
    return ctx.succeeded(said=[each.text for each in two], third=third.status, version=await ctx.workpads.save("# here"))
''')  # fmt: skip
    assert data(isolated, "works") == {"said": ["0", "1"], "third": "SUCCEEDED", "version": 1}
    daemon = max(one.pid for one in isolated.identities("sandbox"))
    server = urlsplit(isolated.record().server)
    layout = isolated.layout
    hidden = [layout.host_credential, layout.owner_credential, layout.host_config, layout.postgresql, isolated.home]
    submit(isolated, "peeks", PEEKS, args={
        "paths": [str(path) for path in hidden], "pid": daemon,
        "addresses": {"server": [server.hostname, server.port], "outside": ["203.0.113.1", 80]},
    })  # fmt: skip
    assert all(path.exists() for path in hidden)
    log = isolated.flakes("logs", "works/plan").ok().out
    assert "isolation: " in log, log
    seen = data(isolated, "peeks")
    assert not any(name in seen["names"] for name in ("MODEL_API_KEY", "FLAKES_TOKEN", "FLAKES_SERVER")), seen["names"]
    assert {name for name in seen["names"] if not name.startswith("FLAKES_")} <= {
        "PATH", "HOME", "TMPDIR", "LANG", "TZ", "PYTHONHASHSEED", "LC_ALL", "LC_CTYPE", "PWD",
    }  # fmt: skip
    del seen["names"]
    assert seen == {"there": [], "processes": 2, "server": "not reached", "outside": "not reached", "daemon": "not there"}


LIMITS = {
    "memory": ("    kept = [bytearray(1 << 20) for _ in range(4096)]\n    return ctx.succeeded(n=len(kept))\n", "memoryMb"),
    "text": ("    text = 'x'\n    while True:\n        text += text\n", "memoryMb"),
    "busy": ("    while True:\n        pass\n", "cpuS"),
    "sleeps": ("    asyncio.base_events.time.sleep(3600)\n    return ctx.succeeded()\n", "wallS"),
}  # fmt: skip


def test_limits_end_it_with_a_reason(isolated: Stage) -> None:
    for name, (body, _) in LIMITS.items():
        submit(isolated, f"limit-{name}", body, limits={"cpuS": 1, "memoryMb": 128, "wallS": 3} | ({"wallS": 60} if name != "sleeps" else {}))
    for name, (_, limit) in LIMITS.items():
        found = result(isolated, f"limit-{name}")
        assert found.status == "FAILED"
        assert found.error is not None
        assert found.error.code == "harness_limit", (name, found.error)
        assert f"limits.{limit}" in fix(found), (name, found.error)
        with isolated.client() as client:
            assert client.get_task(client.task_id(f"limit-{name}/plan")).attempt == 1


def test_more_memory_than_the_pool_has_is_a_limit_too(isolated: Stage) -> None:
    submit(
        isolated, "pool-limit", "    kept = [bytes(1 << 20) * 1 + b'x' for _ in range(4096)]\n    return ctx.succeeded(n=len(kept))\n",
        limits={"memoryMb": 4096},
    )
    found = result(isolated, "pool-limit")
    assert found.error is not None
    assert found.error.code == "harness_limit", found.error
    assert "resourceBounds" in fix(found)
    with isolated.client() as client:
        assert client.get_task(client.task_id("pool-limit/plan")).attempt == 1


REFUSED = {
    "package": ("    import httpx2\n    return ctx.succeeded()\n", "harness_import_refused", "httpx2"),
    "environment": ("    import os\n    return ctx.succeeded(x=os.environ.get('MODEL_API_KEY'))\n", "harness_nondeterministic", "os.environ"),
    "socket": ("    import socket\n    return ctx.succeeded()\n", "harness_import_refused", "socket"),
    "file": ("    return ctx.succeeded(x=open('/etc/passwd').read())\n", "harness_nondeterministic", "open"),
    "clock": ("    x = time.time()\n    return ctx.succeeded(x=x)\n", "harness_nondeterministic", "time.time"),
    "ours": ("    from flakes.wire import tasks\n    return ctx.succeeded()\n", "harness_import_refused", "flakes.wire"),
}  # fmt: skip


def test_what_reaches_out_is_refused_with_its_line_before_anything_is_done(isolated: Stage) -> None:
    for name, (body, _, _) in REFUSED.items():
        submit(isolated, f"refused-{name}", "    await ctx.command('true')\n" + body)
    for name, (_, code, words) in REFUSED.items():
        found = result(isolated, f"refused-{name}")
        assert found.error is not None
        assert found.error.code == code, (name, found.error)
        assert found.error.message.startswith(("plan.py:7: ", "plan.py:8: ")), (name, found.error)
        assert words in found.error.message
        assert fix(found)
        with isolated.client() as client:
            assert len(client.all_tasks(f"refused-{name}")) == 1, "no child was begun"
