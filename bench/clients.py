"""Sandbox clients for benchmarks: real WebSocket connections that speak the wire and do no work.

Run as a process: `python -m bench.clients URL SLOTS WORK < credentials`, where each line of standard input
is `sandboxId token`. Prints `ready` when all are connected, then one line of JSON for every batch of
results: how many, when (monotonic seconds), and when each assignment arrived.
"""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec
import uvloop
from websockets.asyncio.client import connect

from flakes.core.task import Outcome
from flakes.wire import sandbox_stream as wire
from flakes.wire.codec import encode

decoder = msgspec.json.Decoder(wire.Downstream)


class Client:
    """Accepts what it is offered, and reports success as soon as the accept is acknowledged."""

    def __init__(self, url: str, sandbox_id: str, token: str, slots: int, hold: bool) -> None:
        self.url = url.replace("http", "ws", 1) + f"/v1/sandboxes/{sandbox_id}/stream"
        self.sandbox_id = sandbox_id
        self.token = token
        self.slots = slots
        self.hold = hold
        self.seq = 0
        self.accepting: list[tuple[int, str]] = []
        self.held: list[str] = []
        self.acked = 0

    async def run(self, ready: asyncio.Event, go: asyncio.Event) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with connect(
            self.url, additional_headers=headers, max_size=2**24, compression=None
        ) as socket:
            self.socket = socket
            await socket.send(encode(wire.Hello(
                protocol=wire.PROTOCOL, sandbox_id=self.sandbox_id, boot="bench", version="bench",
                max_concurrency=self.slots, adapters=["noop"], capabilities=[], assignments=[],
            )).decode())  # fmt: skip
            async for frame in socket:
                message = decoder.decode(frame)
                match message:
                    case wire.Welcome():
                        ready.set()
                        asyncio.get_running_loop().create_task(self.beat(message.heartbeat_s))
                    case wire.Assign():
                        await self.accept(message.assignments)
                    case wire.Ack():
                        await self.finish(message.seq)
                    case _:
                        pass

    async def beat(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            await self.socket.send(encode(wire.Heartbeat(running=len(self.accepting))).decode())

    async def accept(self, assignments: list[wire.Assignment]) -> None:
        now = time.monotonic()
        report({"offered": [a.task_key for a in assignments], "at": now})
        await self.send([wire.Accepted(assignment_id=a.assignment_id) for a in assignments])
        self.accepting += [
            (self.seq - len(assignments) + n, a.assignment_id) for n, a in enumerate(assignments)
        ]

    async def finish(self, seq: int) -> None:
        ready = [a for number, a in self.accepting if number <= seq]
        self.accepting = [entry for entry in self.accepting if entry[0] > seq]
        done = max(0, seq - self.acked)
        self.acked = seq
        report({"acked": done, "at": time.monotonic()})
        if self.hold:
            self.held += ready
            report({"holding": len(self.held), "at": time.monotonic()})
        elif ready:
            await self.results(ready)

    async def results(self, assignment_ids: list[str]) -> None:
        await self.send(
            [wire.Result(assignment_id=a, outcome=Outcome.SUCCEEDED) for a in assignment_ids]
        )

    async def send(self, messages: list[wire.Message]) -> None:
        first = self.seq + 1
        self.seq += len(messages)
        await self.socket.send(encode(wire.Batch(first_seq=first, messages=messages)).decode())


def report(value: object) -> None:
    sys.stdout.write(encode(value).decode() + "\n")
    sys.stdout.flush()


async def main(url: str, slots: int, hold: bool) -> None:
    clients = [Client(url, *line.split(), slots, hold) for line in iter(sys.stdin.readline, "\n")]
    go = asyncio.Event()
    readies = [asyncio.Event() for _ in clients]
    async with asyncio.TaskGroup() as group:
        for client, ready in zip(clients, readies, strict=True):
            group.create_task(client.run(ready, go))
        for ready in readies:
            await ready.wait()
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if line.strip() == "release":
                for client in clients:
                    held, client.held = client.held, []
                    if held:
                        group.create_task(client.results(held))
        sys.exit(0)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "hold"))
