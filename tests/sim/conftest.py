"""The simulation runs on a real PostgreSQL."""

from postgres import database, postgres, template

__all__ = ["database", "postgres", "template"]
