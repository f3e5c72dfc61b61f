"""A model that does what its prompt says, over the three wires that real agents speak. No network, no key.

The script rides in the prompt: ``<<script [{"sh": "ls"}, {"say": "done"}]>>``. The newest user text with a
script is the one that counts, and the step is the number of answers given since. So the server keeps no
state: any number of agents share it, and a message sent into a running turn proves by its effects that it
arrived there. Steps:

    {"say": text}                     closing words; also what every script ends with
    {"sh": line}                      a shell command, by whatever tool the request offers for it
    {"write": {"path", "text"}}       a file, likewise
    {"tool": {"name", "input"}}       any tool, by its name or the end of its name
    {"status": 400, "times": 1}       an error instead of an answer; `times`: only at the first requests
    {"sleep": seconds}                before the step that follows it

Every answer reports 100 input tokens, 40 of them from a cache, and 10 output tokens.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FILLER = "No response requested."
"""What Claude Code puts between two user messages, after an interruption; no answer of the model's."""
INPUT_TOKENS, CACHED_TOKENS, OUTPUT_TOKENS = 100, 40, 10
_SCRIPT = re.compile(r"<<script (\[.*?\])>>", re.S)
_SHELLS = ("bash", "Bash", "exec_command", "shell_command", "shell", "run_shell_command", "local_shell")
_WRITERS = ("write", "Write", "write_file")
_numbers = itertools.count(1)


@dataclass
class Seen:
    """One request as every wire has it: its texts and answers in order, and the tools it offers."""

    wire: str
    turns: list[tuple[str, str]]
    """(`user` or `assistant`, text)."""
    tools: dict[str, dict[str, Any]]
    model: str
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


def script(*steps: dict[str, Any]) -> str:
    """The text to put into a prompt."""
    return f"<<script {json.dumps(list(steps))}>>"


class ScriptedModel:
    """The server, on a free port of 127.0.0.1; use it as a context."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.failed: Counter[str] = Counter()
        self.scripts: dict[str, list[dict[str, Any]]] = {}
        """For prompts that carry no script: the steps, by a text that is in the prompt."""
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"model": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ScriptedModel:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def requests(self, containing: str) -> list[Seen]:
        """Requests that have this text in a prompt of theirs."""
        return [one for one in self.seen if any(containing in text for _, text in one.turns)]

    def next_step(self, seen: Seen) -> dict[str, Any]:
        """What to answer; a step that is an error raises `_RefusedError`."""
        with self.lock:
            self.seen.append(seen)
        at, steps = -1, []
        for index, (role, text) in enumerate(seen.turns):
            found = _SCRIPT.findall(text) if role == "user" else []
            if found:
                at, steps = index, json.loads(found[-1])
                continue
            for words, wanted in self.scripts.items() if role == "user" else ():
                if words in text:
                    at, steps = index, wanted
        done = sum(role == "assistant" for role, _ in seen.turns[at + 1 :])
        steps = list(steps)
        for step in steps:
            if done == 0 and "sleep" in step:
                time.sleep(step["sleep"])
            elif "sleep" in step:
                continue
            elif "status" in step:
                key = f"{seen.turns[at][1]}:{json.dumps(step)}"
                with self.lock:
                    self.failed[key] += 1
                    times = self.failed[key]
                if times <= step.get("times", 1_000_000):
                    raise _RefusedError(step["status"])
            elif done == 0:
                return step
            else:
                done -= 1
        return {"say": "done"}


class _RefusedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"scripted {status}")
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    model: ScriptedModel
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self._json({"object": "list", "data": [{"id": "scripted", "type": "model", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        path = self.path.split("?")[0]
        if path.endswith("/count_tokens"):
            self._json({"input_tokens": INPUT_TOKENS})
            return
        for end, (read, write, refuse) in _WIRES.items():
            if path.endswith(end):
                seen = read(body)
                seen.headers, seen.body = dict(self.headers), body
                try:
                    step = self.model.next_step(seen)
                except _RefusedError as refused:
                    self._json(refuse(refused.status), refused.status)
                    return
                self._answer(write(seen, _action(step, seen.tools)), stream=bool(body.get("stream")))
                return
        self._json({"error": {"message": "no such path"}}, 404)

    def _answer(self, events: list[tuple[str | None, Any]], *, stream: bool) -> None:
        whole = events.pop()[1]
        if not stream:
            self._json(whole)
            return
        parts = []
        for name, data in events:
            head = f"event: {name}\n" if name else ""
            parts.append(f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n")
        self._send("".join(parts).encode(), "text/event-stream")

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), "application/json", status)

    def _send(self, content: bytes, media: str, status: int = 200) -> None:
        try:
            self.send_response(status)
            self.send_header("content-type", media)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True  # the agent was interrupted


def _action(step: dict[str, Any], tools: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`{"text"}`, or `{"tool", "input"}`; a tool that is not offered becomes a text that says so."""
    if "say" in step:
        return {"text": step["say"]}
    if "sh" in step:
        for name in _SHELLS:
            if name in tools:
                properties = tools[name].get("properties", {})
                key = "cmd" if "cmd" in properties else "command"
                as_list = properties.get(key, {}).get("type") == "array"
                given = {key: ["bash", "-lc", step["sh"]] if as_list else step["sh"]}
                if "description" in properties:
                    given["description"] = "a step of the script"
                return {"tool": name, "input": given}
    if "write" in step:
        path, text = step["write"]["path"], step["write"]["text"]
        for name in _WRITERS:
            if name in tools:
                properties = tools[name].get("properties", {})
                key = next((k for k in ("file_path", "filePath", "path") if k in properties), "path")
                return {"tool": name, "input": {key: path, "content": text}}
        return _action({"sh": f"cat > {path} <<'EOF'\n{text}\nEOF"}, tools)
    if "tool" in step:
        wanted = step["tool"]["name"]
        for name in tools:
            if name == wanted or name.endswith(wanted):
                return {"tool": name, "input": step["tool"]["input"]}
    return {"text": f"no tool for {json.dumps(step)} among {', '.join(tools)}"}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part for part in content if isinstance(part, dict)]
    return "\n".join(part.get("text") or _text(part.get("content")) for part in parts)


# ---- chat completions


def _read_chat(body: dict[str, Any]) -> Seen:
    turns = [
        (message["role"], _text(message.get("content")))
        for message in body.get("messages", []) if message["role"] in ("user", "assistant", "tool")
    ]  # fmt: skip
    tools = {t["function"]["name"]: t["function"].get("parameters", {}) for t in body.get("tools") or []}
    return Seen("chat", turns, tools, body.get("model", ""))


def _write_chat(seen: Seen, action: dict[str, Any]) -> list[tuple[str | None, Any]]:
    number = next(_numbers)
    usage = {
        "prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
    }  # fmt: skip
    head = {"id": f"chat-{number}", "model": seen.model, "created": 1}
    if "text" in action:
        message: dict[str, Any] = {"role": "assistant", "content": action["text"]}
        finish = "stop"
    else:
        call = {
            "id": f"call_{number}", "type": "function", "index": 0,
            "function": {"name": action["tool"], "arguments": json.dumps(action["input"])},
        }  # fmt: skip
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        finish = "tool_calls"

    def chunk(delta: dict[str, Any], end: str | None) -> dict[str, Any]:
        choices = [{"index": 0, "delta": delta, "finish_reason": end}]
        return head | {"object": "chat.completion.chunk", "choices": choices}

    last = head | {"object": "chat.completion.chunk", "choices": [], "usage": usage}
    whole = head | {
        "object": "chat.completion", "usage": usage,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }  # fmt: skip
    return [
        (None, chunk(message, None)), (None, chunk({}, finish)), (None, last), (None, "[DONE]"),
        (None, whole),
    ]  # fmt: skip


def _refuse_openai(status: int) -> dict[str, Any]:
    kind = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error"}
    return {"error": {"message": f"scripted {status}", "type": kind.get(status, "server_error")}}


# ---- responses


def _read_responses(body: dict[str, Any]) -> Seen:
    turns: list[tuple[str, str]] = []
    given = body.get("input", [])
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        if item.get("role") in ("user", "assistant"):
            turns.append((item["role"], _text(item.get("content"))))
        elif item.get("type") in ("function_call", "custom_tool_call", "local_shell_call"):
            turns.append(("assistant", ""))
        elif str(item.get("type", "")).endswith("_output"):
            turns.append(("tool", str(item.get("output"))))
    tools: dict[str, dict[str, Any]] = {}
    for tool in body.get("tools") or []:
        for one in tool.get("tools") or [tool]:  # a namespace of tools, or one
            if one.get("name"):
                tools[one["name"]] = one.get("parameters") or {}
    return Seen("responses", turns, tools, body.get("model", ""))


def _write_responses(seen: Seen, action: dict[str, Any]) -> list[tuple[str | None, Any]]:
    number = next(_numbers)
    if "text" in action:
        item: dict[str, Any] = {
            "type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": action["text"], "annotations": []}],
        }  # fmt: skip
    else:
        item = {
            "type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "status": "completed",
            "name": action["tool"], "arguments": json.dumps(action["input"]),
        }  # fmt: skip
        namespaces = {
            one["name"]: tool["name"]
            for tool in seen.body.get("tools") or [] for one in tool.get("tools") or []
        }  # fmt: skip
        if action["tool"] in namespaces:
            item["namespace"] = namespaces[action["tool"]]
    usage = {
        "input_tokens": INPUT_TOKENS, "input_tokens_details": {"cached_tokens": CACHED_TOKENS},
        "output_tokens": OUTPUT_TOKENS, "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    }  # fmt: skip
    response = {
        "id": f"resp_{number}", "object": "response", "status": "completed", "model": seen.model,
        "created_at": 1, "output": [item], "usage": usage,
    }  # fmt: skip
    begun = response | {"status": "in_progress", "output": [], "usage": None}
    events: list[tuple[str | None, Any]] = [
        ("response.created", {"type": "response.created", "response": begun}),
        ("response.output_item.added", {"type": "response.output_item.added", "output_index": 0, "item": item}),
        ("response.output_item.done", {"type": "response.output_item.done", "output_index": 0, "item": item}),
        ("response.completed", {"type": "response.completed", "response": response}),
    ]  # fmt: skip
    return [*events, (None, response)]


# ---- Anthropic messages


def _read_messages(body: dict[str, Any]) -> Seen:
    turns: list[tuple[str, str]] = []
    for message in body.get("messages", []):
        if message["role"] == "assistant":
            text = _text(message["content"])
            if text != FILLER:
                turns.append(("assistant", text))
            continue
        # A message sent into a running turn arrives inside the results of tools.
        turns.append(("user", _text(message["content"])))
    tools = {t["name"]: t.get("input_schema") or {} for t in body.get("tools") or []}
    return Seen("messages", turns, tools, body.get("model", ""))


def _write_messages(seen: Seen, action: dict[str, Any]) -> list[tuple[str | None, Any]]:
    number = next(_numbers)
    usage = {
        "input_tokens": INPUT_TOKENS - CACHED_TOKENS, "cache_read_input_tokens": CACHED_TOKENS,
        "cache_creation_input_tokens": 0, "output_tokens": OUTPUT_TOKENS,
    }  # fmt: skip
    if "text" in action:
        block: dict[str, Any] = {"type": "text", "text": action["text"]}
        empty, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": action["text"]}
        stop = "end_turn"
    else:
        block = {
            "type": "tool_use", "id": f"toolu_{number}", "name": action["tool"], "input": action["input"]
        }  # fmt: skip
        empty = block | {"input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(action["input"])}
        stop = "tool_use"
    whole = {
        "id": f"msg_{number}", "type": "message", "role": "assistant", "model": seen.model,
        "content": [block], "stop_reason": stop, "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    begun = whole | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None},
         "usage": {"output_tokens": OUTPUT_TOKENS}},
        {"type": "message_stop"},
    ]  # fmt: skip
    return [*((event["type"], event) for event in events), (None, whole)]


def _refuse_anthropic(status: int) -> dict[str, Any]:
    kind = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error"}
    return {"type": "error", "error": {"type": kind.get(status, "api_error"), "message": f"scripted {status}"}}


_WIRES: dict[str, Any] = {
    "/chat/completions": (_read_chat, _write_chat, _refuse_openai),
    "/responses": (_read_responses, _write_responses, _refuse_openai),
    "/messages": (_read_messages, _write_messages, _refuse_anthropic),
}


def serving() -> Iterator[ScriptedModel]:
    """For fixtures."""
    with ScriptedModel() as model:
        yield model
