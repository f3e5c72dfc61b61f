"""What may be tried how often. Tries count in the database at once, whatever becomes of the request.

A person who mistypes notices nothing; somebody who guesses gets a handful of tries an hour for one account
and not many more from one address. What is found to be no guess is given back.
"""

from __future__ import annotations

import ipaddress
import math
from typing import Final

from starlette.requests import Request

from flakes.server.plane import Plane
from flakes.store import rate_limits
from flakes.store.rate_limits import Limit
from flakes.wire.errors import ApiError

LIMITS: Final[dict[str, Limit]] = {
    "password of an account": Limit(50, 30.0),
    "password of an account from an address": Limit(10, 60.0),
    "password from an address": Limit(50, 10.0),
    "mail to an address": Limit(5, 600.0),
    "mail asked for from an address": Limit(30, 60.0),
    "code from an address": Limit(50, 10.0),
    "device asked for from an address": Limit(50, 10.0),
    "device looked up by an account": Limit(20, 30.0),
}
"""A code of six digits also dies with its fifth wrong try, so `mail to an address` bounds those guesses."""

Try = tuple[str, str]
"""The name of a limit, and whom it counts for."""


async def take(plane: Plane, *tries: Try) -> None:
    """Count these tries; `rate_limited` when one is too many."""
    # Never in the transaction of the request: a refusal must not undo the count.
    async with plane.outside.connection() as conn:
        for name, subject in tries:
            wait_s = await rate_limits.take(conn, name, subject, LIMITS[name])
            if wait_s:
                seconds = math.ceil(wait_s)
                raise ApiError("rate_limited", "that was tried too often", f"try again in {seconds} s", retryAfterS=seconds)


async def give_back(plane: Plane, *tries: Try) -> None:
    """These were no guesses."""
    async with plane.outside.connection() as conn:
        for name, subject in tries:
            await rate_limits.give_back(conn, name, subject, LIMITS[name])


def source(request: Request) -> str:
    """Whom a request is counted for: its address, or the network of a home or a machine for IPv6."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))
