"""A model server on loopback that speaks as OpenAI and Anthropic do, streamed or not.

What it answers is in the prompt: FAILS is refused, STOPS gets nothing, or two pieces of a stream,
and then waits; BREAKS streams two pieces and cuts the connection; anything else is answered in
full. It runs in threads of its own, so that it serves sync and async callers alike.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAILS, STOPS, BREAKS = "FAILS", "STOPS", "BREAKS"
PIECES = ["one", " two", " three", " four"]
PIECES_BEFORE_THE_STOP = 2
ANSWER = "".join(PIECES)
INPUT_TOKENS, OUTPUT_TOKENS = 12, 50
OPENAI_MODEL, ANTHROPIC_MODEL = "gpt-4o-mini", "claude-haiku-4-5"
# At $0.15 and $0.60, and at $1.00 and $5.00, a million tokens.
OPENAI_MICROS, ANTHROPIC_MICROS = 32, 262

Event = tuple[str | None, dict[str, Any] | str]


class ModelServer(ThreadingHTTPServer):
    """`requests`: the path and the body of each. `on_request` is called before it is answered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.on_request: Callable[[], None] = lambda: None
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def running_model() -> Iterator[ModelServer]:
    server = ModelServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelServer

    def handle(self) -> None:
        # Callers that are cancelled hang up, at any moment.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """The log of requests is `ModelServer.requests`."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append((self.path, body))
        self.server.on_request()
        prompt = json.dumps(body)
        if FAILS in prompt:
            error = {"error": {"type": "api_error", "message": "the model is ill", "code": None}}
            self._answer(500, {"type": "error", **error})
        elif body.get("stream"):
            self._stream(_events(self.path, body), prompt)
        elif STOPS in prompt:
            self.server.closing.wait()
        else:
            self._answer(200, answer_to(self.path))

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("x-should-retry", "false")
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, events: list[Event], prompt: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for name, data in events:
                text = data if isinstance(data, str) else json.dumps(data)
                is_the_stop = json.dumps(PIECES[PIECES_BEFORE_THE_STOP]) in text
                if is_the_stop and STOPS in prompt:
                    self.server.closing.wait()
                if is_the_stop and BREAKS in prompt:
                    self.close_connection = True
                    return
                event = (f"event: {name}\n" if name else "") + f"data: {text}\n\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event.encode()), event.encode()))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")


# ---------------------------------------------------------------------- bodies

_CHAT_USAGE = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}
_RESPONSE_USAGE = {
    "input_tokens": INPUT_TOKENS,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": OUTPUT_TOKENS,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}


def answer_to(path: str) -> dict[str, Any]:
    if path.endswith("/messages"):
        return _message([{"type": "text", "text": ANSWER}], OUTPUT_TOKENS, "end_turn")
    if path.endswith("/responses"):
        return _response("completed", _RESPONSE_USAGE)
    message = {"role": "assistant", "content": ANSWER, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {**_chat("chat.completion", [choice]), "usage": _CHAT_USAGE}


def _events(path: str, body: dict[str, Any]) -> list[Event]:
    if path.endswith("/messages"):
        return _message_events()
    if path.endswith("/responses"):
        return _response_events()
    chunks = [_chunk({"role": "assistant", "content": ""})]
    chunks += [_chunk({"content": piece}) for piece in PIECES]
    chunks.append(_chunk({}, "stop"))
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**_chat("chat.completion.chunk", []), "usage": _CHAT_USAGE})
    return [*[(None, chunk) for chunk in chunks], (None, "[DONE]")]


def _chat(kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    about = {"id": "chatcmpl-1", "object": kind, "created": 1_795_334_400, "model": OPENAI_MODEL}
    return {**about, "choices": choices}


def _chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return _chat("chat.completion.chunk", [choice])


def _message(
    content: list[dict[str, Any]], output_tokens: int, stop_reason: str | None
) -> dict[str, Any]:
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": output_tokens}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": ANTHROPIC_MODEL,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _message_events() -> list[Event]:
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    pieces = [{"type": "text_delta", "text": piece} for piece in PIECES]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": _message([], 1, None)},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[{"type": "content_block_delta", "index": 0, "delta": piece} for piece in pieces],
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": OUTPUT_TOKENS}},
        {"type": "message_stop"},
    ]
    return [(event["type"], event) for event in events]


def _response(status: str, usage: dict[str, Any] | None) -> dict[str, Any]:
    text = {"type": "output_text", "text": ANSWER, "annotations": [], "logprobs": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_795_334_400,
        "model": OPENAI_MODEL,
        "status": status,
        "output": [{**message, "content": [text]}] if usage else [],
        "usage": usage,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
    }


def _response_events() -> list[Event]:
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": _response("in_progress", None)},
        *[{"type": "response.output_text.delta", "delta": piece, **where} for piece in PIECES],
        {"type": "response.completed", "response": _response("completed", _RESPONSE_USAGE)},
    ]
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    return [(event["type"], event) for event in numbered]
