"""A server of files on this machine, with the faults that servers and networks have."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """content: path -> bytes. asked: (path, Range header) of each request, in order.

    ranges      whether it understands Range
    cut_after   close the connection after so many bytes of an answer
    status      answer every request with this code
    sized       whether it says how long an answer is
    shift       begin a range so many bytes later than asked
    partial     answer with a part of the file though none was asked for
    length      what it says of the length, in place of the truth
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.content: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.agents: set[str | None] = set()
        self.supports_ranges, self.sends_length = True, True
        self.cut_after: int | None = None
        self.status: int | None = None
        self.shift = 0
        self.partial = False
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
            asked = self.headers.get("Range")
            server.requests.append((self.path.lstrip("/"), asked))
            server.agents.add(self.headers.get("User-Agent"))
            whole = server.content.get(self.path.lstrip("/"))
            if server.status or whole is None:
                self.send_error(server.status or 404)
                return
            begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.supports_ranges else 0
            if begin >= len(whole):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(whole)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            begin += server.shift if asked else 0
            rest = whole[begin:]
            part = (asked and server.supports_ranges) or server.partial
            self.send_response(206 if part else 200)
            if part:
                begin += 5 * server.partial
                self.send_header("Content-Range", f"bytes {begin}-{len(whole) - 1}/{len(whole)}")
            if server.sends_length:
                self.send_header("Content-Length", server.length or str(len(rest)))
            self.end_headers()
            sent = rest if server.cut_after is None else rest[: server.cut_after]
            self.wfile.write(sent[: len(sent) // 2])
            self.wfile.flush()
            server.half_sent.set()
            server.gate.wait(300)
            self.wfile.write(sent[len(sent) // 2 :])
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
