"""The control plane: HTTP API, streams to sandboxes and hosts, event streams to clients, and the loops.

Replicas are stateless: what they hold in memory (sockets, wake-ups, caches) can be lost at any moment.
"""
