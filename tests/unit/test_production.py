"""What the page on production promises of configurations, and of two servers on one embedded database."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from flakes.server import main
from flakes.wire import config as configuration
from flakes.wire.addresses import split
from flakes.wire.config import HostConfig, ServerConfig
from flakes.wire.errors import ApiError

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "production.md"
BLOCKS = re.findall(r"^```toml\n(# flakes (\w+).*?)^```$", PAGE.read_text(), re.M | re.S)
KINDS = {"server": ServerConfig, "host": HostConfig}


@pytest.mark.parametrize(("text", "process"), BLOCKS, ids=[process for _, process in BLOCKS])
def test_a_configuration_on_the_page_loads(tmp_path: Path, text: str, process: str) -> None:
    path = tmp_path / f"{process}.toml"
    path.write_text(text)
    loaded = configuration.load(path, KINDS[process])
    if isinstance(loaded, HostConfig):
        assert len(split(loaded.control_plane_url)) == 2


def test_the_page_shows_both() -> None:
    assert {process for _, process in BLOCKS} == KINDS.keys()


def test_an_embedded_database_is_for_one_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "PREDECESSOR_PATIENCE_S", 0.1)
    data_dir = tmp_path / "postgresql"

    async def both() -> None:
        async with main._exclusively(data_dir) as first, main._exclusively(data_dir):
            assert first

    with pytest.raises(ApiError) as refused:
        asyncio.run(both())
    assert refused.value.code == "config_invalid"
    assert "database.url" in refused.value.fix

    async def one_after_the_other() -> list[bool]:
        found: list[bool] = []
        for _ in range(2):
            async with main._exclusively(data_dir) as alone:
                found.append(alone)
        return found

    assert asyncio.run(one_after_the_other()) == [True, True]
