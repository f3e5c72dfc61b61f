"""What `network.allow` lets through."""

from __future__ import annotations

import pytest

from flakes.core.egress import allowing, canonical, is_inner, parse


@pytest.mark.parametrize(
    ("entry", "host", "port", "fits"),
    [
        ("pypi.org", "pypi.org", 443, True),
        ("pypi.org", "pypi.org", 80, True),
        ("pypi.org", "PyPI.org.", 443, True),
        ("PYPI.org.", "pypi.org", 443, True),
        ("pypi.org", "pypi.org", 22, False),
        ("pypi.org:22", "pypi.org", 22, True),
        ("pypi.org:22", "pypi.org", 443, False),
        ("pypi.org", "evil-pypi.org", 443, False),
        ("pypi.org", "pypi.org.evil.example", 443, False),
        ("pypi.org", "x.pypi.org", 443, False),
        ("*.example", "a.example", 443, True),
        ("*.example", "a.b.example", 443, True),
        ("*.example", "example", 443, False),
        ("*.example", "aexample", 443, False),
        ("*.example:8443", "a.example", 8443, True),
        ("*.example:8443", "a.example", 443, False),
        ("*", "anything.at.all", 443, True),
        ("*", "anything.at.all", 25, False),
        ("*.0.0.1", "127.0.0.1", 80, False),
        ("127.0.0.1:8000", "127.0.0.1", 8000, True),
        ("[::1]:8000", "0:0:0:0:0:0:0:1", 8000, True),
        ("::1", "::1", 80, True),
        ("localhost:1", "localhost", 1, True),
    ],
)
def test_an_entry_fits_or_not(entry: str, host: str, port: int, fits: bool) -> None:
    assert (allowing([parse(entry)], canonical(host), port) is not None) is fits


@pytest.mark.parametrize(
    "text",
    ["", "http://x", "a b", "x:0", "x:65536", "x:y", "*.", "*x", "x.*", "a..b", "-", "x/y", "user@x", "*.*.x", "ü.example", "x\ny"],
)
def test_what_is_no_entry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a"):
        parse(text)


@pytest.mark.parametrize(
    ("address", "inner"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", True), ("::", True),
        ("169.254.169.254", True), ("fe80::1", True), ("fe80::1%eth0", True), ("::ffff:127.0.0.1", True),
        ("224.0.0.1", True), ("nonsense", True),
        ("192.0.2.1", False), ("10.1.2.3", False), ("2001:db8::1", False), ("::ffff:192.0.2.1", False),
    ],
)  # fmt: skip
def test_this_machine_and_its_link_are_known(address: str, inner: bool) -> None:
    assert is_inner(address) is inner


def test_only_an_address_or_localhost_may_mean_this_machine() -> None:
    inner = [entry for entry in ("*", "*.x", "x", "localhost", "127.0.0.1", "[::1]:1") if parse(entry).may_be_inner]
    assert inner == ["localhost", "127.0.0.1", "[::1]:1"]
