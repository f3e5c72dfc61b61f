"""The Python SDK: one typed async client over the public API, and a thin synchronous facade.

Importing this package imports no HTTP library; the names below load what they need when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.client.sync import SyncClient

__all__ = ["Client", "SyncClient"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from flakes.client.api import Client

        return Client
    if name == "SyncClient":
        from flakes.client.sync import SyncClient

        return SyncClient
    raise AttributeError(name)
