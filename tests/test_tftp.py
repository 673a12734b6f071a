"""A TFTP read without sockets: each rule of pixieboot.tftp as a packet trace, and any network that hypothesis can think of."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixieboot.tftp import HURRY, PROMPT, SENDS, STALLED_SENDS, Limits, ReadTransfer, Result, Send, Terms, negotiate, netascii
from pixieboot.wire.tftp import Ack, Data, Error, OptionAck, ReadRequest, acknowledgement, decode

ETHERNET = Limits(1468, 64)


def asked(options: Mapping[str, str], mode: str = "octet", size: int = 3000, limits: Limits = ETHERNET) -> Terms:
    return negotiate(ReadRequest("f", mode, options), size, limits)


def began(size: int = 3000, **options: str) -> ReadTransfer:
    """A transfer whose first packet left at second 0."""
    transfer = ReadTransfer(asked(options, size=size), size)
    transfer.start(0.0)
    return transfer


NEGOTIATIONS = {  # options asked for, what the OACK says
    "none: no OACK": ({}, {}),
    "blksize as asked": ({"blksize": "1432"}, {"blksize": "1432"}),
    "blksize no larger than the way carries": ({"blksize": "65464"}, {"blksize": "1468"}),
    "the smallest blksize": ({"blksize": "8"}, {"blksize": "8"}),
    "blksize 7 is illegal": ({"blksize": "7"}, {}),
    "blksize 65465 is illegal": ({"blksize": "65465"}, {}),
    "blksize -1 is illegal": ({"blksize": "-1"}, {}),
    "blksize with a plus": ({"blksize": "+512"}, {}),
    "blksize with a blank": ({"blksize": " 512"}, {}),
    "blksize with an underscore": ({"blksize": "1_024"}, {}),
    "blksize in Arabic digits": ({"blksize": "\u0665\u0661\u0662"}, {}),
    "blksize as an exponent": ({"blksize": "1e3"}, {}),
    "blksize empty": ({"blksize": ""}, {}),
    "blksize too long to be read": ({"blksize": "1" * 5000}, {}),
    "tsize is answered with the size": ({"tsize": "0"}, {"tsize": "3000"}),
    "tsize that is no number": ({"tsize": "x"}, {}),
    "timeout comes back as it is": ({"timeout": "3"}, {"timeout": "3"}),
    "timeout 0 is illegal": ({"timeout": "0"}, {}),
    "timeout 256 is illegal": ({"timeout": "256"}, {}),
    "windowsize as asked": ({"blksize": "512", "windowsize": "16"}, {"blksize": "512", "windowsize": "16"}),
    "windowsize no larger than allowed": ({"windowsize": "65535"}, {"windowsize": "64"}),
    "a window of at most 64 KiB": ({"windowsize": "64", "blksize": "1468"}, {"windowsize": "44", "blksize": "1468"}),
    "windowsize 0 is illegal": ({"windowsize": "0"}, {}),
    "windowsize 65536 is illegal": ({"windowsize": "65536"}, {}),
    "only what was asked for, unknown names left out": ({"multicast": "", "tsize": "0"}, {"tsize": "3000"}),
    "good ones beside an illegal one": ({"blksize": "7", "tsize": "0"}, {"tsize": "3000"}),
    "in the client's order": ({"windowsize": "4", "tsize": "0"}, {"windowsize": "4", "tsize": "3000"}),
}


@pytest.mark.parametrize("options, acknowledged", NEGOTIATIONS.values(), ids=NEGOTIATIONS)
def test_negotiation(options: dict[str, str], acknowledged: dict[str, str]) -> None:
    terms = asked(options)
    assert list(terms.options.items()) == list(acknowledged.items())
    assert terms.blksize == int(acknowledged.get("blksize", 512))
    assert terms.windowsize == int(acknowledged.get("windowsize", 1))
    assert terms.timeout == (int(acknowledged["timeout"]) if "timeout" in acknowledged else None)


@given(
    st.dictionaries(
        st.sampled_from(["blksize", "windowsize", "timeout", "tsize", "x"]), st.text(max_size=8) | st.integers().map(str)
    )
)
def test_never_more_than_asked_and_never_an_illegal_value(options: dict[str, str]) -> None:
    for name, value in asked(options).options.items():
        assert name in options
        if name != "tsize":
            assert 1 <= int(value) <= int(options[name])
        if name == "blksize":
            assert 8 <= int(value) <= 1468
        if name == "timeout":
            assert value == str(int(options[name]))


def test_tsize_is_left_out_for_netascii() -> None:
    assert asked({"tsize": "0", "blksize": "600"}, "netascii").options == {"blksize": "600"}


def test_netascii_on_the_wire() -> None:
    assert netascii(b"a\nb\rc\r\nd") == b"a\r\nb\r\0c\r\0\r\nd"


def test_without_options_the_first_answer_is_block_1() -> None:
    assert ReadTransfer(Terms(), 3000).start(0.0) == (1, 1)


def test_options_bring_an_oack_and_nothing_else_until_ack_0() -> None:
    transfer = ReadTransfer(asked({"blksize": "1000"}), 3000)
    oack = transfer.start(0.0)
    assert isinstance(oack, bytes) and decode(oack) == OptionAck({"blksize": "1000"})
    for packet in (Ack(1), Ack(2), Ack(65535), Data(1, b"x"), OptionAck({})):
        assert transfer.receive(packet, 0.1) is None
    assert transfer.receive(Ack(0), 0.2) == (1, 1)


def test_all_options_refused_is_as_if_there_were_none() -> None:
    assert ReadTransfer(asked({"blksize": "7", "multicast": ""}), 3000).start(0.0) == (1, 1)


def test_lockstep_to_the_end() -> None:
    transfer = began(size=1200)
    assert [transfer.receive(Ack(block), 0.1) for block in (1, 2)] == [(2, 2), (3, 3)]
    assert transfer.result is None
    assert transfer.receive(Ack(3), 0.2) is None
    assert transfer.result == Result("sent")


SIZES = {
    "empty file: one empty block": (0, 1),
    "one octet less": (511, 1),
    "a whole block: an empty one follows": (512, 2),
    "one more": (513, 2),
}


@pytest.mark.parametrize("size, blocks", SIZES.values(), ids=SIZES)
def test_the_last_block_is_shorter_than_the_others(size: int, blocks: int) -> None:
    transfer = began(size=size)
    for block in range(1, blocks):
        assert transfer.receive(Ack(block), 0.0) == (block + 1, block + 1)
    transfer.receive(Ack(blocks), 0.0)
    assert transfer.result == Result("sent")


def test_windows_follow_each_other_and_the_last_is_shorter() -> None:
    transfer = began(size=512 * 9, windowsize="4")
    assert [transfer.receive(Ack(block), 0.0) for block in (0, 4, 8, 10)] == [(1, 4), (5, 8), (9, 10), None]
    assert transfer.result == Result("sent")


def test_an_ack_inside_the_window_starts_anew_behind_it() -> None:
    transfer = began(size=512 * 20, windowsize="8")
    assert [transfer.receive(Ack(block), 0.0) for block in (0, 3, 3, 11)] == [(1, 8), (4, 11), None, (12, 19)]


def test_the_sorcerers_apprentice_stays_out() -> None:
    """Each ACK arrives twice: nothing is sent twice."""
    transfer = began(size=512 * 50)
    sent = [transfer.receive(Ack(block), block / 100) for block in range(1, 51) for _ in range(2)]
    assert [span for span in sent if span] == [(block, block) for block in range(2, 52)]


def test_only_the_timer_answers_a_repeated_ack() -> None:
    transfer = began(size=512 * 9)
    assert transfer.receive(Ack(1), 0.0) == (2, 2)
    assert transfer.receive(Ack(1), 0.5) is None
    assert transfer.deadline == 1.0
    assert transfer.expire(1.0) == (2, 2)


def test_a_client_with_windows_that_asks_three_times_is_not_kept_waiting() -> None:
    """Its first block of the window was lost: it says so again and again (RFC 7440 §4), and nothing under way can answer it."""
    transfer = began(size=512 * 40, windowsize="16", timeout="1")
    transfer.receive(Ack(0), 0.0)
    assert [transfer.receive(Ack(0), at) for at in (0.05, 0.1)] == [None, None]
    assert transfer.deadline == pytest.approx(0.1 + HURRY)
    assert transfer.expire(transfer.deadline) == (1, 16)


def test_with_windows_too_the_second_ack_is_a_copy_however_late() -> None:
    transfer = began(size=512 * 40, windowsize="16", timeout="1")
    transfer.receive(Ack(0), 0.0)
    assert transfer.receive(Ack(0), 0.9) is None
    assert transfer.deadline == 1.0


STRANGE_ACKS = {
    "of a block acknowledged long ago": 7,
    "of the block before": 9,
    "of a block that was never sent": 12,
    "of one far ahead": 10_000,
    "of one on the other side of the counter": 40_000,
    "of the last number there is": 65535,
}


@pytest.mark.parametrize("block", STRANGE_ACKS.values(), ids=STRANGE_ACKS)
def test_an_ack_that_makes_no_sense_changes_nothing(block: int) -> None:
    transfer = began(size=512 * 100)
    for acknowledged in range(1, 11):
        transfer.receive(Ack(acknowledged), 0.0)
    assert transfer.receive(Ack(block), 0.9) is None
    assert (transfer.acked, transfer.sent, transfer.deadline) == (10, 11, 1.0)


@pytest.mark.parametrize("windowsize", [1, 7, 64])
def test_the_counter_rolls_over_to_0_and_the_transfer_goes_on(windowsize: int) -> None:
    blocks = 140_000
    transfer = ReadTransfer(Terms(8, windowsize, None, {"blksize": "8"}), blocks * 8 - 1)
    transfer.start(0.0)
    send, reached = transfer.receive(Ack(0), 0.0), 0
    while send:
        assert isinstance(send, tuple) and send[0] == reached + 1
        reached = send[1]
        assert transfer.awaited == acknowledgement(reached)
        send = transfer.receive(Ack(reached & 0xFFFF), 0.0)
    assert (reached, transfer.result) == (blocks, Result("sent"))


def sends(transfer: ReadTransfer) -> list[tuple[float, Send]]:
    """What a transfer sends, and when, to a peer that says nothing any more."""
    found: list[tuple[float, Send]] = []
    while transfer.result is None:
        now = transfer.deadline
        if send := transfer.expire(now):
            found.append((now, send))
    return found


def test_a_silent_peer_gets_its_block_five_times_and_is_forgotten() -> None:
    transfer = began()
    assert sends(transfer) == [(1.0, (1, 1)), (3.0, (1, 1)), (7.0, (1, 1)), (15.0, (1, 1))]
    assert transfer.deadline == 23.0
    assert transfer.result == Result("failed", "no answer to DATA 1, sent 5 times")


def test_the_oack_is_repeated_alike() -> None:
    transfer = ReadTransfer(asked({"tsize": "0"}), 3000)
    oack = transfer.start(0.0)
    assert sends(transfer) == [(1.0, oack), (3.0, oack), (7.0, oack), (15.0, oack)]
    assert transfer.result == Result("failed", "no answer to OACK, sent 5 times")


def test_the_clients_timeout_is_the_first_wait() -> None:
    transfer = began(timeout="3")
    assert [at for at, _ in sends(transfer)] == [3.0, 9.0, 17.0, 25.0]
    transfer = began(timeout="20")
    assert [at for at, _ in sends(transfer)] == [20.0, 40.0, 60.0, 80.0]


def in_windows(rtt: float, **options: str) -> ReadTransfer:
    """A transfer in which each of ten windows took so many seconds."""
    transfer = began(size=512 * 1000, windowsize="8", **options)
    for window in range(10):
        transfer.receive(Ack(window * 8), window * rtt + rtt)
    return transfer


def test_with_windows_the_first_repetition_is_soon_and_the_others_as_ever() -> None:
    """The last block of a window was lost: the client waits for it, and says nothing."""
    transfer = in_windows(0.001)
    waits = [round(at - 0.01, 3) for at, _ in sends(transfer)]
    assert waits == [PROMPT, PROMPT + 1, PROMPT + 3, PROMPT + 7]
    assert transfer.result == Result("failed", "no answer to DATA 73, sent 5 times")


WAITS = {  # seconds that a client takes for a window, the longest first wait for its answer
    "a quick one": (0.001, PROMPT),
    "a slow one": (0.1, 0.2),
    "one behind a very slow line": (3.0, 1.0),
}


@pytest.mark.parametrize("rtt, longest", WAITS.values(), ids=WAITS)
def test_a_client_is_given_the_time_that_it_takes(rtt: float, longest: float) -> None:
    transfer = in_windows(rtt)
    assert min(rtt, 1.0) <= transfer.deadline - 10 * rtt <= longest


def test_a_timeout_that_was_asked_for_is_kept() -> None:
    assert in_windows(0.001, timeout="2").deadline == pytest.approx(2.01)


def test_in_lockstep_the_first_repetition_is_never_early() -> None:
    transfer = began(size=512 * 100)
    transfer.receive(Ack(1), 0.001)
    assert transfer.deadline == 1.001


def test_what_was_sent_twice_tells_nothing_about_the_clients_speed() -> None:
    transfer = in_windows(0.001)
    transfer.expire(transfer.deadline)
    transfer.receive(Ack(80), 0.9)
    assert transfer.deadline == pytest.approx(0.9 + PROMPT)


def test_progress_starts_the_timer_anew() -> None:
    transfer = began()
    transfer.expire(1.0)
    transfer.expire(3.0)
    assert transfer.receive(Ack(1), 3.5) == (2, 2)
    assert transfer.deadline == 4.5
    assert not transfer.stalled


def test_the_whole_window_is_repeated_then_single_blocks() -> None:
    """A receive ring or a switch that drops whole windows may take single blocks."""
    transfer = began(size=512 * 30, windowsize="8")
    transfer.receive(Ack(0), 0.0)
    assert [send for _, send in sends(transfer)] == [(1, 8), (1, 8), (1, 1), (1, 1)]


def test_a_peer_that_talks_is_not_silent_but_has_an_end_too() -> None:
    transfer, count = began(size=512 * 9, windowsize="4"), 0
    transfer.receive(Ack(0), 0.0)
    while transfer.result is None:
        transfer.receive(Ack(0), transfer.deadline - 0.01)
        count += transfer.expire(transfer.deadline) is not None
    assert SENDS < count < STALLED_SENDS
    assert transfer.result.kind == "failed"


def test_a_lost_last_ack_is_no_failure() -> None:
    transfer = began(size=600)
    transfer.receive(Ack(1), 0.0)
    assert len(sends(transfer)) == 4  # the client may have lost the block, not only its ACK
    assert transfer.result == Result("sent", "the last acknowledgement never came")


def test_a_one_block_file_for_a_peer_that_was_never_heard_is_a_failure() -> None:
    transfer = began(size=100)
    sends(transfer)
    assert transfer.result is not None and transfer.result.kind == "failed"


@pytest.mark.parametrize("code", [0, 8])
def test_a_size_probe_is_no_failure(code: int) -> None:
    transfer = began(tsize="0")
    assert transfer.receive(Error(code, "User aborted the transfer"), 0.0) is None
    assert transfer.result is not None and transfer.result.kind == "probe"


ERRORS = {
    "code 3 for the OACK": ([], 3),
    "after ACK 0": ([Ack(0)], 0),
    "in the middle": ([Ack(0), Ack(1)], 8),
}


@pytest.mark.parametrize("before, code", ERRORS.values(), ids=ERRORS)
def test_an_error_ends_it_and_is_never_answered(before: list[Ack], code: int) -> None:
    transfer = began(tsize="0")
    for packet in before:
        transfer.receive(packet, 0.0)
    assert transfer.receive(Error(code, "disk full"), 0.0) is None
    assert transfer.result == Result("failed", f"the client ended it with error {code}: disk full")


def test_an_error_instead_of_the_first_ack_without_options_is_a_failure() -> None:
    transfer = began()
    transfer.receive(Error(0, ""), 0.0)
    assert transfer.result is not None and transfer.result.kind == "failed"


def test_the_same_request_again_is_answered_again_until_something_was_acknowledged() -> None:
    transfer = ReadTransfer(asked({"tsize": "0"}), 3000)
    oack = transfer.start(0.0)
    assert [transfer.again(at / 10) for at in range(1, 7)] == [oack] * 4 + [None] * 2
    transfer.receive(Ack(0), 1.0)
    assert transfer.again(1.1) is None


def test_the_shell_may_go_ahead_and_say_so_later() -> None:
    transfer = began(size=512 * 100, windowsize="4", timeout="1")
    transfer.receive(Ack(0), 0.0)
    transfer.resume(40, 7.0)
    assert (transfer.acked, transfer.sent, transfer.awaited, transfer.deadline) == (36, 40, acknowledgement(40), 8.0)
    assert transfer.receive(Ack(38), 7.5) == (39, 42)


def test_a_slow_disk_does_not_count_as_a_silent_peer() -> None:
    transfer = began()
    transfer.sent_late(30.0)
    assert transfer.deadline == 31.0


class Wire:
    """A network that loses, repeats and reorders, with a client as RFC 1350 and 7440 want it behind it."""

    def __init__(self, chance: random.Random, harm: float, blksize: int, windowsize: int, size: int) -> None:
        options = {"blksize": str(blksize), "windowsize": str(windowsize)}
        self.transfer = ReadTransfer(negotiate(ReadRequest("f", "octet", options), size, Limits()), size)
        self.content = chance.randbytes(size)
        self.blksize, self.windowsize = self.transfer.terms.blksize, self.transfer.terms.windowsize
        self.received, self.done = bytearray(), False
        self._chance, self._harm = chance, harm
        self._now, self._order = 0.0, 0
        self._queue: list[tuple[float, int, str, int]] = []
        self._next, self._in_window, self._deadline = 1, 0, 1.0

    def _carry(self, to: str, block: int) -> None:
        copies = 0 if self._chance.random() < self._harm else 2 if self._chance.random() < self._harm else 1
        for _ in range(copies):
            delay = self._chance.uniform(0.5, 0.9) if self._chance.random() < self._harm else 0.01
            self._order += 1
            self._queue.append((self._now + delay, self._order, to, block))

    def _server_sends(self, send: Send) -> None:
        if isinstance(send, bytes):
            self._carry("client", 0)
        elif send:
            for block in range(send[0], send[1] + 1):
                self._carry("client", block)

    def _client_hears(self, block: int) -> None:
        if self.done:
            return
        if block == 0:
            if self._next == 1:
                self._carry("server", 0)
            return
        if block != self._next:
            if block > self._next:
                self._in_window = 0
                self._carry("server", self._next - 1)
            return
        payload = self.content[(block - 1) * self.blksize : block * self.blksize]
        self.received += payload
        self._next, self._in_window, self._deadline = block + 1, self._in_window + 1, self._now + 1.5
        self.done = len(payload) < self.blksize
        if self.done or self._in_window >= self.windowsize:
            self._in_window = 0
            self._carry("server", block)

    def run(self) -> None:
        """Until the server has an end."""
        self._server_sends(self.transfer.start(0.0))
        for _ in range(200_000):
            if self.transfer.result:
                return
            due = min(self._queue, default=(1e9, 0, "", 0))
            self._now = min(due[0], self.transfer.deadline, self._deadline if not self.done else 1e9)
            if due[0] <= self._now:
                self._queue.remove(due)
                if due[2] == "client":
                    self._client_hears(due[3])
                else:
                    self._server_sends(self.transfer.receive(Ack(due[3] & 0xFFFF), self._now))
            elif self.transfer.deadline <= self._now:
                self._server_sends(self.transfer.expire(self._now))
            else:
                self._deadline = self._now + 1.5
                self._in_window = 0
                self._carry("server", self._next - 1)
        raise AssertionError("the transfer has no end")


@pytest.mark.slow
@given(
    st.randoms(use_true_random=False),
    st.floats(0, 0.6),
    st.sampled_from([8, 512, 1468]),
    st.sampled_from([1, 2, 4, 16, 64]),
    st.integers(0, 20_000),
)
@settings(max_examples=150, deadline=None)
def test_any_network_delivers_the_exact_octets_or_the_transfer_ends(
    chance: random.Random, harm: float, blksize: int, windowsize: int, size: int
) -> None:
    wire = Wire(chance, harm, blksize, windowsize, size)
    wire.run()
    result = wire.transfer.result
    assert result is not None and result.kind in ("sent", "failed")
    assert wire.content.startswith(bytes(wire.received))
    if result.kind == "sent" and not result.why:
        assert wire.received == wire.content


@pytest.mark.parametrize("windowsize", [1, 4, 16, 64])
@pytest.mark.parametrize("harm", [0.01, 0.05, 0.2])
def test_a_bad_network_is_slow_but_not_the_end(harm: float, windowsize: int) -> None:
    wire = Wire(random.Random(7), harm, 1468, windowsize, 400_000)
    wire.run()
    assert wire.done and wire.received == wire.content


@given(st.binary(max_size=40), st.integers(0, 3), st.integers(1, 64))
def test_any_packet_in_any_state_raises_nothing(datagram: bytes, steps: int, windowsize: int) -> None:
    transfer = began(size=9000, windowsize=str(windowsize))
    for step in range(steps):
        transfer.receive(Ack(transfer.sent & 0xFFFF), step)
    try:
        packet = decode(b"\0" + datagram)
    except Exception:
        return
    transfer.receive(packet, 5.0)
