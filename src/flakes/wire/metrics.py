"""Metrics of a run: how long its work waited and ran, how it ended, what it cost. Times in milliseconds."""

from __future__ import annotations

from datetime import datetime

from flakes.wire.codec import Frozen
from flakes.wire.transcripts import AgentUsage


class Distribution(Frozen, frozen=True, kw_only=True):
    """Durations in milliseconds; everything but the count is null when there were none."""

    count: int
    mean_ms: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None


class Success(Frozen, frozen=True, kw_only=True):
    """How the tasks of the run stand. `rate` is the share of the ended ones that succeeded."""

    tasks: int
    succeeded: int
    failed: int
    cancelled: int
    live: int
    rate: float | None = None


class Parallelism(Frozen, frozen=True, kw_only=True):
    """Attempts at the same time: on average while any ran, and at most."""

    mean: float | None = None
    max: int = 0


class RunMetrics(Frozen, frozen=True, kw_only=True):
    """Of the run as it stands; a live one's numbers still move."""

    run_id: str
    run_key: str
    state: str
    measured_at: datetime
    wall_ms: float
    """From the creation of the run to its end, or to now while it lives."""
    queue: Distribution
    """Ready to offered, for every accepted attempt; a back-off is not queueing and left out."""
    assignment: Distribution
    """Offered to accepted, for every accepted attempt."""
    run: Distribution
    """Accepted to ended, for every attempt that has ended."""
    wait: Distribution
    """What attempts waited for answers of a person: asked to answered, expired or cancelled; questions of an
    attempt that were open at the same time are one wait."""
    success: Success
    attempts: int
    """Accepted attempts, of any end."""
    retries: int
    """New attempts because the work failed, or because somebody asked for one."""
    infrastructure_losses: int
    """Accepted attempts that were lost with their sandbox or host."""
    offers_not_taken: int
    """Offers that no sandbox accepted in time; they cost a task nothing but time."""
    declined: int
    parallelism: Parallelism
    tokens: int | None = None
    """Everything that went into models and came out; null when no agent told."""
    cost_micro_usd: int | None = None
    usage: AgentUsage | None = None


class ProjectMetrics(Frozen, frozen=True, kw_only=True):
    """What the agents of all runs of a project have spent, deleted runs aside."""

    project_id: str
    project_key: str
    tokens: int | None = None
    cost_micro_usd: int | None = None
    usage: AgentUsage | None = None
