"""The store's tests run on a real PostgreSQL."""

from embedded_servers import data_dir, place, seed
from postgres import admin_dsn, database, empty_database, postgres, template

__all__ = [
    "admin_dsn",
    "data_dir",
    "database",
    "empty_database",
    "place",
    "postgres",
    "seed",
    "template",
]
