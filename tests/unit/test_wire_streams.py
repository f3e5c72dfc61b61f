"""The two streams: every message survives its frame, and is told from the others by its tag."""

from __future__ import annotations

import msgspec
import pytest

from flakes.core.task import Outcome
from flakes.wire import host_stream, sandbox_stream
from flakes.wire.codec import encode
from flakes.wire.events import TYPES
from flakes.wire.tasks import Evidence, Output, TaskDefinition, TaskError
from flakes.wire.transcripts import AgentUsage, EntryBody

SANDBOX_UP = [
    sandbox_stream.Hello(
        protocol=1, sandbox_id="sandbox_1", boot="b", version="1", max_concurrency=2,
        adapters=["command"], capabilities=[],
        assignments=[sandbox_stream.InventoryItem(assignment_id="assignment_1", state="ended")],
    ),
    sandbox_stream.Batch(
        first_seq=7,
        messages=[
            sandbox_stream.Accepted(assignment_id="assignment_1"),
            sandbox_stream.Declined(assignment_id="assignment_2", reason="full"),
            sandbox_stream.InputState(
                assignment_id="assignment_1", message_id="msg_1", state="delivered"
            ),
            sandbox_stream.LogLines(
                assignment_id="assignment_1", first_line=0,
                lines=[sandbox_stream.LogLine(channel="stdout", at_ms=1, text="ß\n\u2028")],
            ),
            sandbox_stream.TranscriptChunk(
                assignment_id="assignment_1", first_entry=0,
                entries=[EntryBody(at_ms=1, kind="text", data={"text": "ß"}, raw="{}")],
                usage=AgentUsage(input_total=2, calls=1),
            ),
            sandbox_stream.Result(
                assignment_id="assignment_1", outcome=Outcome.RETRYABLE, exit_code=75,
                outputs={"o": Output(kind="text", size_bytes=1, digest="sha256:0", text="x")},
                evidence=[Evidence(command="true", exit_code=0, passed=True)],
                error=TaskError(code="exit", message="75"),
            ),
        ],
    ),
    sandbox_stream.Heartbeat(running=1),
]  # fmt: skip
SANDBOX_DOWN = [
    sandbox_stream.Welcome(protocol=1, heartbeat_s=15, window=10, server_time_ms=0, drop=["a"]),
    sandbox_stream.Ack(seq=7, stale=["assignment_2"]),
    sandbox_stream.Assign(
        assignments=[
            sandbox_stream.Assignment(
                assignment_id="assignment_1", task_id="task_1", task_key="t", run_id="run_1",
                run_key="r", project_key="p", attempt=2,
                definition=TaskDefinition(title="t", adapter="noop"),
            )
        ]
    ),
    sandbox_stream.Cancel(assignment_ids=["assignment_1"], reason="why"),
    sandbox_stream.Drain(reason="why"),
    sandbox_stream.Input(
        messages=[
            sandbox_stream.InputMessage(
                assignment_id="assignment_1", message_id="msg_1", mode="steer", text="left"
            )
        ]
    ),
]  # fmt: skip
HOST_UP = [
    host_stream.Hello(
        protocol=1, host_id="host_1", boot="b", version="1", platform="linux", arch="x86_64",
        pools=[
            host_stream.PoolAdvertisement(
                pool_key="p", provider="process", adapter="command", max_instances=1,
                max_concurrency=1, capabilities=[],
            )
        ],
        instances=[
            host_stream.InstanceReport(
                instance_id="instance_1", sandbox_id="sandbox_1", pool_key="p", state="running"
            )
        ],
    ),
    host_stream.LeaseResult(lease_id="lease_1", ok=False, reason="no disk"),
    host_stream.InstanceExited(instance_id="instance_1"),
    host_stream.Heartbeat(instances=1),
    host_stream.BindingReport(bindings=[
        host_stream.BindingState(
            binding_id="binding_1", revision=2, available=False, reason="workspace_not_found"
        ),
    ]),
]  # fmt: skip
HOST_DOWN = [
    host_stream.Welcome(protocol=1, heartbeat_s=15, server_time_ms=0, pools={"p": "pool_1"}),
    host_stream.Launch(
        lease_id="lease_1", instance_id="instance_1", sandbox_id="sandbox_1", pool_key="p",
        sandbox_token="secret",
    ),
    host_stream.Stop(lease_id="lease_2", instance_id="instance_1", drain=True, reason="idle"),
    host_stream.Bindings(root="/srv", bindings=[
        host_stream.Binding(binding_id="binding_1", revision=2, project_key="a", pool_keys=["p"]),
    ]),
]  # fmt: skip
STREAMS = [
    (sandbox_stream.Upstream, SANDBOX_UP),
    (sandbox_stream.Downstream, SANDBOX_DOWN),
    (host_stream.Upstream, HOST_UP),
    (host_stream.Downstream, HOST_DOWN),
]
FRAMES = [(union, message) for union, messages in STREAMS for message in messages]


def tag_of(kind: type[msgspec.Struct]) -> object:
    return kind.__struct_config__.tag


@pytest.mark.parametrize(("union", "message"), FRAMES, ids=lambda value: type(value).__name__)
def test_a_message_survives_its_frame(union: type[object], message: msgspec.Struct) -> None:
    assert msgspec.json.decode(encode(message), type=union) == message


@pytest.mark.parametrize(("union", "message"), FRAMES, ids=lambda value: type(value).__name__)
def test_a_field_of_a_newer_version_is_ignored(
    union: type[object], message: msgspec.Struct
) -> None:
    frame = msgspec.json.decode(encode(message))
    assert msgspec.convert(frame | {"laterField": [1]}, union) == message


def test_every_message_of_each_stream_is_covered_and_has_its_own_tag() -> None:
    for union, messages in STREAMS:
        kinds = set(union.__args__)  # type: ignore[attr-defined]
        assert {type(message) for message in messages} == kinds
        assert len({tag_of(kind) for kind in kinds}) == len(kinds)
    batch = next(m for m in SANDBOX_UP if isinstance(m, sandbox_stream.Batch))
    kinds = set(sandbox_stream.Message.__args__)
    assert {type(message) for message in batch.messages} == kinds


@pytest.mark.parametrize("frame", [b"{}", b'{"type": "later"}', b'{"type": "batch"}', b"[]", b""])
def test_a_frame_that_is_not_understood_is_an_error_of_the_decoder(frame: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        msgspec.json.decode(frame, type=sandbox_stream.Upstream)


def test_every_event_type_has_a_subject_a_verb_and_a_sentence() -> None:
    for name, sentence in TYPES.items():
        subject, verb = name.split(".")
        assert subject
        assert verb
        assert sentence.endswith(".")
