"""An OpenAI-compatible server on localhost that answers by rule, fails on command, and counts what it is asked."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Server:
    """Hold what the server does and what it saw.

    Args:
        answer: Takes the request's body and returns the text of the answer, or fields of the choice.
        faults: Takes the conversation's text and how often it was asked before; returns a fault or None.
        refusal: Takes the request's body; returns a fault or None.
        hold_after: Number of answers after which requests are left waiting until the server ends.
    """

    answer: Callable[[dict], str | dict]
    faults: Callable[[str, int], str | None] = lambda text, before: None
    refusal: Callable[[dict], str | None] = lambda body: None
    hold_after: int | None = None
    logprobs: dict[str, float] | None = None
    top: bool = True  # whether log-probabilities of other tokens than the one written are told
    usage: bool = True
    asked: Counter = field(default_factory=Counter)
    answered: Counter = field(default_factory=Counter)
    keys: set = field(default_factory=set)
    most_at_once: int = 0
    url: str = ""
    _open: int = 0
    _lock: Any = field(default_factory=threading.Lock)
    _ended: Any = field(default_factory=threading.Event)


@contextmanager
def serving(**options) -> Iterator[Server]:
    """Serve on a free port until the block ends."""
    state = Server(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = json.dumps(body["messages"])
            with state._lock:
                state.keys.add(self.headers.get("Authorization"))
                before = state.asked[text]
                state.asked[text] += 1
                state._open += 1
                state.most_at_once = max(state.most_at_once, state._open)
                held = state.hold_after is not None and state.answered.total() >= state.hold_after
                if not held and state.faults(text, before) is None:
                    state.answered[text] += 1
            try:
                if held:
                    state._ended.wait(60)
                    self.close_connection = True
                    return
                respond(self, body, state.faults(text, before) or state.refusal(body), state)
            finally:
                with state._lock:
                    state._open -= 1

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state._ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def respond(handler: BaseHTTPRequestHandler, body: dict, fault: str | None, state: Server) -> None:
    if fault == "hang up":
        handler.close_connection = True
    elif fault == "silence":
        state._ended.wait(60)
        handler.close_connection = True
    elif fault == "not json":
        send(handler, 200, "<html>we are down for maintenance</html>", kind="text/html")
    elif fault == "broken json":
        send(handler, 200, '{"choices": [')
    elif fault == "wrong shape":
        send(handler, 200, json.dumps({"choices": [{"message": "A"}]}))
    elif fault == "empty choices":
        send(handler, 200, json.dumps({"choices": []}))
    elif fault == "no content":
        send(handler, 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": None}}]}))
    elif fault is not None:
        key = handler.headers.get("Authorization")  # some servers repeat it in their complaint
        status, _, param = fault.partition(" ")
        error = {"message": f"fault, your key is {key}", "code": "unsupported_value", "param": param or "top_p"}
        if param == "system":
            error |= {"message": "System role not supported", "param": None}
        if status == "422":
            error = {"message": f"[{{'loc': ['body', '{param}'], 'msg': 'less than 5'}}]", "code": None, "param": None}
        send(handler, int(status), json.dumps({"error": error}))
    else:
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        said = state.answer(body)
        choice |= {"message": {"role": "assistant", "content": said}} if isinstance(said, str) else said
        if state.logprobs and body.get("logprobs"):
            top = [{"token": token, "logprob": value, "bytes": None} for token, value in state.logprobs.items()]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top} if state.top else top[0]]}
        reply: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        reply["choices"] = [choice]
        if state.usage:
            reply["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        send(handler, 200, json.dumps(reply))


def send(handler: BaseHTTPRequestHandler, status: int, text: str, kind: str = "application/json") -> None:
    content = text.encode()
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content)))
    if status == 429:
        handler.send_header("Retry-After", "0.01")
    handler.end_headers()
    handler.wfile.write(content)


def endpoint_flags(server):
    """Return the flags that name a server as the judge, and let nothing wait for long."""
    fast = ("--judge_longest_wait", 0.02, "--judge_attempts", 3, "--judge_timeout", 60)
    return ("--judge", "openai:m", "--judge_url", server.url, *fast)
