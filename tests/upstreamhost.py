"""Another HTTP server for tests, on 127.0.0.1: well-behaved unless a test says otherwise for a path."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Act = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    """One request.  `whole` is how a good server answers; acts of tests write what they like to `wfile`."""

    protocol_version = "HTTP/1.1"
    origin: "Origin"

    def do_GET(self) -> None:
        self.close_connection = True
        self.origin.asked.append((self.path, dict(self.headers.items())))
        act = self.origin.acts.get(self.path)
        if isinstance(act, list):
            act = act.pop(0) if act else None
        if act:
            act(self)
        else:
            self.whole()

    def head(self, status: int, **headers: str | int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()

    def whole(self) -> None:
        """The file with an ETag; a range of it if asked for and unchanged; 304 for who has it."""
        body, etag = self.origin.files.get(self.path), self.origin.etags.get(self.path, '"one"')
        if body is None:
            return self.head(404, Content_Length=0)
        if self.headers.get("If-None-Match") == etag:
            return self.head(304, ETag=etag)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and self.headers.get("If-Range", etag) == etag:
            at = int(wanted[1])
            if at >= len(body):
                return self.head(416, Content_Length=0)
            self.head(206, Content_Length=len(body) - at, Content_Range=f"bytes {at}-{len(body) - 1}/{len(body)}", ETag=etag)
            body = body[at:]
        else:
            self.head(200, Content_Length=len(body), ETag=etag)
        self.wfile.write(body)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Origin:
    """files: path -> content; acts: path -> what to do instead, or a list of such, one for each request."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    acts: dict[str, Act | list[Act]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextmanager
def serving(**files: bytes) -> Iterator[Origin]:
    """An origin with these files at /NAME.  `over` is set at its end, for acts that wait."""
    origin = Origin(files={f"/{name}": body for name, body in files.items()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Exchange,), {"origin": origin}))
    server.daemon_threads, origin.port = True, server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield origin
    finally:
        origin.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
