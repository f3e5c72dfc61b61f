"""The HTTP routes, one file a resource. Each lists its `ENDPOINTS`; `flakes.server.app` puts them together."""
