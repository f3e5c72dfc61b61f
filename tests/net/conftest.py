"""Servers, hosts and sandboxes as real processes, many of each, over one database."""

from __future__ import annotations

from postgres import database, postgres, template

__all__ = ["database", "postgres", "template"]
