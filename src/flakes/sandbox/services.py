"""What every assignment of a daemon shares: the journal and the ways out, the spawner, the tools' endpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from flakes.agents.base import Installation
from flakes.sandbox.blobs import BlobClient
from flakes.sandbox.isolation import isolation_of
from flakes.sandbox.journal import Journal
from flakes.sandbox.outbox import Outbox
from flakes.sandbox.sessions import Sessions
from flakes.sandbox.spawn import Spawner
from flakes.sandbox.tools.forward import Forwarder
from flakes.sandbox.tools.mcp import McpEndpoint
from flakes.wire.config import SandboxConfig
from flakes.workspace.cache import Cache


class Services:
    """See the module; one a daemon."""

    def __init__(self, config: SandboxConfig, journal: Journal, outbox: Outbox) -> None:
        self.config = config
        self.journal = journal
        self.outbox = outbox
        self.spawner = Spawner(isolation_of(config))
        self.blobs = BlobClient(config)
        self.forwarder = Forwarder(config)
        self.mcp = McpEndpoint()
        self.packs = Cache(
            Path(config.workspaces_dir or Path(config.state_dir) / "packs"),
            config.workspaces_bytes_max,
        )
        self.sessions = Sessions(Path(config.sessions_dir or Path(config.state_dir) / "sessions"))
        self.installation = Installation(
            tuple(config.agent.command), Path(d) if (d := config.agent.config_dir) else None
        )
        self.ledgers = Path(config.state_dir) / "credentials"
        """What was lent to attempts; none of them sees it."""
        self.own_env: Mapping[str, str] = dict(os.environ)

    async def close(self) -> None:
        """When no assignment is left."""
        await self.spawner.close()
        await self.blobs.close()
        await self.forwarder.close()
        await self.mcp.close()
