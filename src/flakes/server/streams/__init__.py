"""WebSocket endpoints of sandboxes and hosts, and the hub that knows who is connected here."""
