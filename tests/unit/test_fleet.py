"""The table of instances: every state has its way out, nothing that is over comes back, and blockers say why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flakes.core import fleet, project_root
from flakes.core.fleet import MOVES, InstanceEvent, InstanceState, step

S, E = InstanceState, InstanceEvent
STATES = st.sampled_from(list(InstanceState))
EVENTS = st.sampled_from(list(InstanceEvent))


@given(STATES, st.lists(EVENTS, max_size=12))
def test_what_is_over_stays_over(state: InstanceState, events: list[InstanceEvent]) -> None:
    """Only what was silent may come back (F19); a deleted one goes, and nothing else goes unasked."""
    over = False
    now: InstanceState | None = state
    for event in events:
        assert now is not None
        was, now = now, step(now, event)
        over = over or was in fleet.TERMINAL or was is S.DELETING
        if over:
            assert now in (None, S.DELETING, *fleet.TERMINAL)
        if now is None:
            assert (was, event) == (S.DELETING, E.GONE)
            break


@given(STATES)
def test_an_event_that_comes_twice_is_one(state: InstanceState) -> None:
    """Hosts and daemons repeat what they are not sure was heard."""
    for event in E:
        once = step(state, event)
        if once is not None and event is not E.CONNECTED:
            assert step(once, event) in (once, None)
    assert step(step(state, E.CONNECTED) or state, E.CONNECTED) == step(state, E.CONNECTED)


@pytest.mark.parametrize("state", list(S))
def test_every_state_leads_out(state: InstanceState) -> None:
    """Stopped by its owner, gone by its host's word, then deleted: nothing holds a place for ever (F20)."""
    now: InstanceState | None = state
    for event in (E.STOP, E.GONE, E.DELETE, E.GONE):
        if now is not None:
            now = step(now, event)
    assert now is None


def test_a_drained_one_does_not_come_back_to_work() -> None:
    for state in (S.DRAINING, S.STOPPING):
        assert step(state, E.CONNECTED) is state
        assert step(state, E.SILENT) is state, "its host is asked to end it"
    assert step(S.EXPIRED, E.CONNECTED) is S.RUNNING


def test_what_counts_against_a_pool_is_what_its_host_runs_or_is_about_to() -> None:
    assert set(fleet.COUNTED).isdisjoint({S.EXPIRED, S.DELETING, *fleet.TERMINAL})
    assert set(fleet.CLEANED) >= {S.DELETING, S.STOPPING, *fleet.TERMINAL}
    for event in E:
        before, after = fleet.moves(event)
        assert len(before) == len(after) <= len(MOVES[event])


@given(
    STATES, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 3),
)  # fmt: skip
def test_blockers_of_a_delete(
    state: InstanceState, managed: bool, held: bool, live: bool, accepted: int
) -> None:
    found = fleet.delete_blockers(state, managed=managed, held=held, live=live, accepted=accepted)
    assert ("live_sandbox" in found) == live
    assert ("accepted_running_assignments" in found) == (accepted > 0)
    assert ("provider_cleanup_required" in found) == (held and not managed)
    unsafe = managed and state in (S.PENDING_LAUNCH, S.LAUNCHING, S.STOPPING)
    assert ("unsafe_status" in found) == unsafe
    if not found and state is not S.DELETING and (held or managed):
        assert state in MOVES[E.DELETE], "what nothing blocks can be deleted"


def test_blockers_of_a_host() -> None:
    assert fleet.host_delete_blockers(credentials=0, leases=0, instances=0) == []
    assert fleet.host_delete_blockers(credentials=1, leases=2, instances=3) == [
        "active_credentials", "active_leases", "nonterminal_instances",
    ]  # fmt: skip


@given(st.integers(0, 10_000))
def test_clean_ups_are_asked_for_more_and_more_slowly(attempts: int) -> None:
    now, later = fleet.cleanup_backoff_s(attempts), fleet.cleanup_backoff_s(attempts + 1)
    assert 0 < now <= later <= fleet.CLEANUP_BACKOFF_MAX_S


def test_metadata_about_what_hosts_keep_is_found_at_any_depth() -> None:
    wrong = {
        "runtime": 1, "agent_adapter": 1, "workspacePath": 1, "ENV": 1, "imageName": 1,
        "provider-config": 1, "a": [{"statusText": 1}], "paths": 1, "HTTPEnv": 1,
    }  # fmt: skip
    assert set(fleet.local_keys(wrong)) == {
        "metadata.runtime", "metadata.agent_adapter", "metadata.workspacePath", "metadata.ENV",
        "metadata.imageName", "metadata.provider-config", "metadata.a[0].statusText", "metadata.paths",
        "metadata.HTTPEnv",
    }  # fmt: skip
    fine = {"rack": 3, "owner": "me", "notes": ["environs"], "pathological": 1, "seats": {"a": 1}}
    assert list(fleet.local_keys(fine)) == []


@pytest.mark.parametrize(
    ("root", "directory"),
    [
        ("/srv/projects", "/srv/projects/a"), ("/srv/projects/", "/srv/projects/a"), ("/", "/a"),
        ("C:\\work", "C:\\work\\a"), ("\\\\box\\share", "\\\\box\\share\\a"), ("C:/srv", "C:/srv/a"),
    ],
)  # fmt: skip
def test_a_projects_directory_is_below_the_root(root: str, directory: str) -> None:
    assert project_root.problem(root) is None
    assert project_root.workspace_path(root, "a") == directory


@pytest.mark.parametrize("root", ["", "srv", "./srv", "~/p", "/a/../b", "/a\nb", "C:work", "\\\\box"])
def test_what_is_no_absolute_path_is_refused(root: str) -> None:
    assert project_root.problem(root)
