"""A file server on this machine with the faults that servers and networks have."""

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """content maps a path to bytes; requests lists the paths that were requested, in order.

    cut_after      close the connection after this many bytes of an answer
    status         answer each request with this code
    sends_length   whether answers state their length
    length         the stated length, in place of the true one
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.content: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.agents: set[str | None] = set()
        self.sends_length = True
        self.cut_after: int | None = None
        self.status: int | None = None
        self.length: str | None = None
        self.gate = threading.Event()
        """Answers wait for it after their first half."""
        self.gate.set()
        self.half_sent = threading.Event()


@contextmanager
def serve_files() -> Iterator[FileServer]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            server.requests.append(path)
            server.agents.add(self.headers.get("User-Agent"))
            content = server.content.get(path)
            if server.status or content is None:
                self.send_error(server.status or 404)
                return
            self.send_response(200)
            if server.sends_length:
                self.send_header("Content-Length", server.length or str(len(content)))
            self.end_headers()
            answer = content if server.cut_after is None else content[: server.cut_after]
            with contextlib.suppress(ConnectionError):  # the client has given up
                self.wfile.write(answer[: len(answer) // 2])
                self.wfile.flush()
                server.half_sent.set()
                server.gate.wait(300)
                self.wfile.write(answer[len(answer) // 2 :])
            self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = FileServer(http.server_port)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.gate.set()
            http.shutdown()
            thread.join()
