"""What was spent, in words."""

from __future__ import annotations

from flakes.cli.render.detail import spent
from flakes.wire.transcripts import AgentUsage


def test_a_cost_that_nobody_told_is_not_nothing() -> None:
    usage = AgentUsage(input_total=1_000, cached_read=400, output=20, calls=2)
    assert spent(usage) == "1,020 tokens, 400 of them cached; cost not told"
    free = AgentUsage(input_total=5, cost_micro_usd=0)
    assert spent(free) == "5 tokens; $0.0000"
