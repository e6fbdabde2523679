"""A chat endpoint on 127.0.0.1 that answers by a script and counts what it was asked; standard library only."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What the server does: waits, then sends the text as a completion, or a status with a raw body."""

    text: str | None = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    body: bytes | None = None
    finish: str = "stop"
    refusal: str | None = None
    drop: bool = False  # closes the connection without a word
    drip: float = 0.0  # seconds for which a byte comes now and then


@dataclass(frozen=True)
class Asked:
    """A request as it came: its JSON body, its headers and when."""

    body: dict[str, Any]
    headers: dict[str, str]
    path: str
    time: float

    @property
    def system(self) -> str:
        return self.body["messages"][0]["content"]

    @property
    def data(self) -> dict[str, Any]:
        """What the user's message holds: JSON, if the client keeps data apart."""
        return json.loads(self.body["messages"][-1]["content"])


class ChatServer:
    """`with ChatServer(script) as server`: `script(asked, number)` gives the answer to the number-th request."""

    def __init__(self, script: Callable[[Asked, int], Answer | str]):
        self.script = script
        self.asked: list[Asked] = []
        self.sent: list[Asked] = []  # answers that were written to the end
        self.now = self.most_at_once = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

            def do_POST(self) -> None:  # noqa: N802
                server.serve(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                pass  # a client that was killed

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "ChatServer":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        asked = Asked(body, {k.lower(): v for k, v in handler.headers.items()}, handler.path, time.monotonic())
        with self._lock:
            number = len(self.asked)
            self.asked.append(asked)
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
        try:
            answer = self.script(asked, number)
            self._send(handler, answer if isinstance(answer, Answer) else Answer(answer))
            with self._lock:
                self.sent.append(asked)
        finally:
            with self._lock:
                self.now -= 1

    def _send(self, handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        time.sleep(answer.delay)
        if answer.drop:
            handler.close_connection = True
            return
        content = answer.body if answer.body is not None else json.dumps(_completion(answer)).encode()
        handler.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        end = time.monotonic() + answer.drip
        while time.monotonic() < end:
            handler.wfile.write(content[:1])
            handler.wfile.flush()
            content = content[1:]
            time.sleep(0.05)
        handler.wfile.write(content)


def _completion(answer: Answer) -> dict[str, Any]:
    if answer.status != 200:
        return {"error": {"message": answer.text}}
    message = {"role": "assistant", "content": answer.text}
    if answer.refusal is not None:
        message["refusal"] = answer.refusal
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
    }
