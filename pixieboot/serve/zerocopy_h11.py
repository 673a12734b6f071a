"""The same on h11, uvicorn's pure-Python parser: where httptools has no wheel (32-bit ARM), or its hooks are gone."""

import errno
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from pixieboot.serve.zerocopy import HEAD_LIMIT, TOO_LONG, Connection, Header, fault_of, plain

__all__ = ["H11Protocol", "ZeroCopyH11"]


class ZeroCopyH11(Connection, H11Protocol):  # type: ignore[misc]
    """uvicorn's pure-Python protocol class with all that Connection adds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _StrictH11(self)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        # uvicorn has made the task but it has not run yet: its first `send` is ours already.
        if self.cycle is not before:
            self.attach(self.cycle)
        self.in_head = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])

    def head(self, cycle: Any, status: int, headers: list[Header]) -> bytes:
        if not cycle.keep_alive:
            headers.append((b"Connection", b"close"))
        response = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
        return self.conn.send(response) or b""

    def data(self, cycle: Any, body: bytes) -> bytes:
        return self.conn.send(h11.Data(data=body)) or b""

    def count(self, cycle: Any, size: int) -> None:
        self.conn.send_with_data_passthrough(h11.Data(data=_Span(size)))  # type: ignore[arg-type]

    def end(self, cycle: Any) -> bytes:
        try:
            return self.conn.send(h11.EndOfMessage()) or b""
        except h11.LocalProtocolError as error:  # fewer bytes than Content-Length said
            raise OSError(errno.EPIPE, str(error)) from error

    def finished(self, cycle: Any) -> None:
        if self.conn.our_state is h11.MUST_CLOSE or not cycle.keep_alive:
            self.conn.send(h11.ConnectionClosed())
            self.transport.close()
        cycle.on_response()


class _Span:
    """Bytes that h11 only has to count."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


class _StrictH11(h11.Connection):
    """h11's own rules, and some that it leaves to its user."""

    def __init__(self, protocol: ZeroCopyH11) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self._protocol = protocol

    def next_event(self) -> Any:
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self._protocol.refuse(error.error_status_hint, f"Bad request: {error}.\n")
            raise
        if type(event) is h11.Request:
            headers = list(event.headers)
            if len(event.target) + sum(len(name) + len(value) + 4 for name, value in headers) > HEAD_LIMIT:
                self._protocol.refuse(*TOO_LONG)
                raise h11.RemoteProtocolError(TOO_LONG[1])
            if fault := fault_of(headers, event.http_version.decode()):
                self._protocol.refuse(400, fault)
                raise h11.RemoteProtocolError(fault)
            names = {name for name, _ in headers}
            self._protocol.is_plain = event.method == b"GET" and plain(names, headers) and event.http_version == b"1.1"
        return event
