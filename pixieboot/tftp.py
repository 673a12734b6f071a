"""A TFTP read without sockets and clocks: what to send when a packet comes, and when none does.

Rules (RFC 1350; 1123 §4.2.3; 2347-2349; 7440), each with a test of its name:
- An accepted option brings an OACK, and nothing else until ACK 0.  All options refused: DATA 1, as if there were none.
- The OACK lists only what was asked for, never more than was asked for, and never an illegal value.
- An ACK inside the window is progress, and starts a window after it.  The same ACK again is not: only the timer resends
  (the sorcerer's apprentice).  An ACK of what was never sent, or of what was acknowledged long ago, is nothing at all.
- A silent peer gets the same thing five times, after 1, 2, 4 and 8 seconds (or its `timeout` and doubles of it), then is forgotten.
  With windows and no `timeout` asked for, the first repetition comes when this client's answer is overdue (RFC 1123 §4.2.3.2):
  that the first or the last block of a window was lost is seen in no other way.
- An ERROR is never answered.  One that comes for the OACK is how ROMs ask for the size: a probe, not a failure.
- When all was sent and only the last ACK is missing, the boot went on: that is success.

Blocks are counted from 1 without end; the wire carries the low 16 bits (65535 is followed by 0).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pixieboot.wire.tftp import NO_OPTIONS, Ack, Code, Error, OptionAck, Packet, ReadRequest, acknowledgement, encode

BLKSIZE = 512  # without the option (RFC 1350)
SMALLEST_BLKSIZE, LARGEST_BLKSIZE = 8, 65464  # RFC 2348
WINDOW_OCTETS = 64 << 10  # of one window, whatever windowsize was asked for
SENDS = 5  # of the same thing to a peer that says nothing
STALLED_SENDS = 40  # of the same thing to a peer that talks, but does not get on
WAIT, LONGEST_WAIT = 1.0, 8.0  # seconds before the first repetition; before any
PROMPT = 0.05  # seconds: no first repetition is earlier, however quick the client has been so far
HURRY = 0.02  # seconds to the repetition, in a transfer with windows, once the client has said for certain what it lacks

Span = tuple[int, int]
"""Blocks to send: the first and the last of them."""
Send = bytes | Span | None
"""What to do now: send this packet, or these DATA blocks, or nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that we agree to.  blksize: what one datagram carries on the way to this client."""

    blksize: int = LARGEST_BLKSIZE
    windowsize: int = 64


@dataclass(frozen=True, slots=True)
class Terms:
    """What client and server agreed on.  options: what the OACK says; empty: no OACK is sent."""

    blksize: int = BLKSIZE
    windowsize: int = 1
    timeout: int | None = None
    options: Mapping[str, str] = field(default_factory=lambda: NO_OPTIONS)


@dataclass(frozen=True, slots=True)
class Result:
    """How a transfer ended.  kind: sent | probe | failed."""

    kind: str
    why: str = ""


def negotiate(request: ReadRequest, size: int, limits: Limits) -> Terms:
    """The terms of a transfer of size octets.  Options that are unknown or carry an illegal value are left out (RFC 2347)."""
    accepted: dict[str, str] = {}
    blksize, windowsize, timeout = BLKSIZE, 1, None
    for name, value in request.options.items():
        number = _number(value)
        if number is None:
            continue
        if name == "blksize" and SMALLEST_BLKSIZE <= number <= LARGEST_BLKSIZE:
            blksize = max(SMALLEST_BLKSIZE, min(number, limits.blksize))
            accepted[name] = str(blksize)
        elif name == "windowsize" and 1 <= number <= 65535:
            windowsize = number
            accepted[name] = value  # its place in the order; the number follows when blksize is known
        elif name == "timeout" and 1 <= number <= 255:
            timeout = number
            accepted[name] = str(number)
        elif name == "tsize" and request.mode == "octet":  # netascii: another size on the wire than on disk
            accepted[name] = str(size)
    if "windowsize" in accepted:
        windowsize = min(windowsize, limits.windowsize, max(1, WINDOW_OCTETS // blksize))
        accepted["windowsize"] = str(windowsize)
    return Terms(blksize, windowsize, timeout, accepted or NO_OPTIONS)


def netascii(octets: bytes) -> bytes:
    """A text of this host as netascii: LF is CR LF, CR is CR NUL (RFC 764)."""
    return octets.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")


def _number(text: str) -> int | None:
    """A decimal number as the RFCs mean it: digits, nothing else.  int() alone takes ' 5', '+5', '1_0', Arabic digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None


class ReadTransfer:
    """One read request being answered.

    The shell calls `start` once, `receive` for what comes, `expire` when `deadline` has passed, and sends what each of them
    answers.  When `result` is set, the transfer is over.  As long as every datagram equals `awaited` and another whole window
    follows, the shell may send that by itself, and say with `resume` how far it came before it calls anything else.
    """

    __slots__ = (
        "_left", "_oack", "_patience", "_repeats", "_rtt", "_spread", "_stalled", "_unanswered", "_wait", "_window", "acked",
        "awaited", "deadline", "last", "proven", "result", "sent", "terms",
    )  # fmt: skip

    def __init__(self, terms: Terms, size: int) -> None:
        self.terms = terms
        self.acked = -1 if terms.options else 0  # highest block acknowledged; 0 is the OACK
        self.awaited = b""  # the ACK of all that is under way, once the peer is proven
        self.sent = 0  # highest block sent
        self.proven = False  # the peer has acknowledged something: its address is not forged
        self.deadline = 0.0
        self.result: Result | None = None
        self.last = size // terms.blksize + 1  # block
        self._window = terms.windowsize
        self._oack = encode(OptionAck(terms.options)) if terms.options else b""
        self._wait = self._patience = float(terms.timeout or WAIT)
        self._left = 0.0  # when what is under way was sent
        self._rtt = self._spread = 0.0  # seconds from a window to its ACK, and by how much they differ, in the long run
        self._unanswered = 0  # sends of the same thing since the peer was last heard
        self._stalled = 0  # sends of the same thing since the last progress
        self._repeats = 0  # ACKs that said the same as the one before

    @property
    def stalled(self) -> bool:
        """Something had to be sent again since the last progress."""
        return self._stalled > 1

    def start(self, now: float) -> Send:
        """The answer to the request: an OACK, or the first block."""
        if not self._oack:
            self.sent = 1
        return self._repeat(now, self._wait)

    def again(self, now: float) -> Send:
        """The same request came again: answered like the first time, or an old duplicate if something was acknowledged since."""
        if self.proven or self._unanswered >= SENDS:
            return None
        return self._repeat(now, self._wait)

    def receive(self, packet: Packet, now: float) -> Send:
        """Any packet of the client but a request."""
        match packet:
            case Ack(block):
                return self.acknowledge(block, now)
            case Error(code, message):
                if not self.proven and self._oack and code in (Code.UNDEFINED, Code.OPTIONS):
                    self.result = Result("probe", "the client asked for the size and ended it, as boot ROMs do")
                else:
                    self.result = Result("failed", f"the client ended it with error {code}: {message}")
        return None

    def acknowledge(self, block: int, now: float) -> Span | None:
        """ACK of this block: the next window, if there is progress and there is one."""
        acked = self.acked
        ahead = (block - acked) & 0xFFFF  # un-wraps the 16-bit block number
        if not 0 < ahead <= self.sent - acked:
            if ahead == 0 and self.proven:
                self._heard_again(now)
            return None
        if self._window > 1 and self._stalled == 1 and not self.terms.timeout:
            self._learn(now - self._left)
        self.proven = True
        self.acked = acked = acked + ahead
        if acked == self.last:
            self.result = Result("sent")
            return None
        self.sent = final = min(acked + self._window, self.last)
        self.awaited = acknowledgement(final)
        self._left, self.deadline = now, now + self._patience
        self._unanswered = self._stalled = 1
        self._repeats = 0
        return acked + 1, final

    def resume(self, sent: int, now: float) -> None:
        """The shell went ahead: window after window was acknowledged, the last one sent ends with block sent, at that time."""
        self.sent, self.acked = sent, sent - self._window
        self.awaited = acknowledgement(sent)
        self._left, self.deadline = now, now + self._patience
        self._unanswered = self._stalled = 1
        self._repeats = 0

    def expire(self, now: float) -> Send:
        """The deadline has passed: the same again, or the end."""
        if self._unanswered >= SENDS or self._stalled >= STALLED_SENDS:
            self.lose(f"no answer to {self._what()}, sent {self._stalled} times")
            return None
        doubled = self._unanswered - (self._patience < self._wait)
        return self._repeat(now, min(self._wait * 2**doubled, max(self._wait, LONGEST_WAIT)))

    def sent_late(self, now: float) -> None:
        """What was asked for last leaves only now: the disk was slow, not the peer."""
        self._left, self.deadline = now, now + self._wait

    def lose(self, why: str) -> None:
        """The peer is not there any more."""
        if self.proven and self.sent == self.last:
            self.result = Result("sent", "the last acknowledgement never came")
        else:
            self.result = Result("failed", why)

    def _repeat(self, now: float, wait: float) -> Send:
        self._unanswered += 1
        self._stalled += 1
        self._repeats = 0
        self._left, self.deadline = now, now + wait
        if self.acked < 0:
            return self._oack
        # A peer that loses whole windows (a small receive ring, a shallow switch) may still take single blocks.
        return self.acked + 1, self.sent if self._stalled <= 3 else self.acked + 1

    def _heard_again(self, now: float) -> None:
        """The same ACK again: the peer lives, and waits for what it did not get.  Only the timer resends.

        With windows the timer is brought forward at the third ACK of a block: that is how a client tells that the first block of a
        window was lost (RFC 7440 §4).  The second one may be a copy that the network made, however late it comes.
        """
        self._repeats += 1
        self._unanswered = 1
        wait = HURRY if self._window > 1 and self._repeats == 2 else self._wait
        self.deadline = min(self.deadline, now + wait)

    def _learn(self, rtt: float) -> None:
        """How long this client took, as TCP reckons with it (RFC 6298 §2).  Never told of what was sent twice."""
        if self._rtt:
            self._spread += (abs(rtt - self._rtt) - self._spread) / 4
            self._rtt += (rtt - self._rtt) / 8
        else:
            self._rtt, self._spread = rtt, rtt / 2
        self._patience = min(self._wait, max(PROMPT, self._rtt + 4 * self._spread))

    def _what(self) -> str:
        return "OACK" if self.acked < 0 else f"DATA {self.acked + 1}"
