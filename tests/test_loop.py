"""The loop with direct readers: asyncio's rules hold, and nobody waits for anybody."""

import asyncio
import errno
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

from pixieboot.serve.loop import DirectLoop


def run(main: Callable[[DirectLoop], Awaitable[None]]) -> list[dict[str, Any]]:
    """Run main on a DirectLoop; what its exception handler was told."""
    faults: list[dict[str, Any]] = []

    async def begin() -> None:
        loop = cast(DirectLoop, asyncio.get_running_loop())
        loop.set_exception_handler(lambda loop, context: faults.append(context))
        await asyncio.wait_for(main(loop), 10)

    with asyncio.Runner(loop_factory=DirectLoop) as runner:
        runner.run(begin())
    return faults


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def test_a_direct_reader_is_called_for_each_packet() -> None:
    async def main(loop: DirectLoop) -> None:
        near, far = pair()
        heard: list[bytes] = []
        loop.add_direct_reader(near.fileno(), lambda: heard.append(near.recv(100)))
        for number in range(5):
            far.send(b"%d" % number)
            await asyncio.sleep(0.01)
        assert heard == [b"0", b"1", b"2", b"3", b"4"]
        loop.remove_direct_reader(near.fileno())
        far.send(b"5")
        await asyncio.sleep(0.02)
        assert len(heard) == 5
        near.close()
        far.close()

    assert run(main) == []


def test_a_true_answer_lets_the_loop_have_its_turn_at_once() -> None:
    async def main(loop: DirectLoop) -> None:
        near, far = pair()
        woken = asyncio.Event()

        def reader() -> bool:
            near.recv(100)
            loop.call_soon(woken.set)
            return True

        loop.add_direct_reader(near.fileno(), reader)
        threading.Timer(0.05, far.send, (b"x",)).start()
        began = time.monotonic()
        await woken.wait()  # nothing else is scheduled: without a turn it would wait for ever
        assert time.monotonic() - began < 1
        loop.remove_direct_reader(near.fileno())
        near.close()
        far.close()

    assert run(main) == []


def test_timers_sockets_and_threads_are_served_under_a_flood_of_packets() -> None:
    """A reader that always has another packet, as 50 clients in lockstep make it."""

    async def main(loop: DirectLoop) -> None:
        near, far = pair()

        def reader() -> None:
            far.send(near.recv(100))

        far.send(b"x")
        loop.add_direct_reader(near.fileno(), reader)
        began = time.monotonic()
        for _ in range(10):
            await asyncio.sleep(0.005)
        assert time.monotonic() - began < 2
        await loop.run_in_executor(None, time.sleep, 0.01)
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        reader_, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await reader_.readline() == b"hello\n"
        writer.close()
        server.close()
        loop.remove_direct_reader(near.fileno())
        near.close()
        far.close()

    assert run(main) == []


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()


def test_a_bug_in_a_reader_is_reported_and_the_loop_goes_on() -> None:
    async def main(loop: DirectLoop) -> None:
        near, far = pair()

        def reader() -> None:
            near.recv(100)
            raise ZeroDivisionError

        loop.add_direct_reader(near.fileno(), reader)
        far.send(b"x")
        await asyncio.sleep(0.02)
        loop.remove_direct_reader(near.fileno())
        near.close()
        far.close()

    (fault,) = run(main)
    assert isinstance(fault["exception"], ZeroDivisionError)


def test_a_reader_may_close_another_one_that_is_readable_too() -> None:
    async def main(loop: DirectLoop) -> None:
        pairs = [pair() for _ in range(10)]
        called = []

        def reader() -> None:
            called.append(1)
            for near, _ in pairs:
                loop.remove_direct_reader(near.fileno())

        for near, far in pairs:
            far.send(b"x")
            loop.add_direct_reader(near.fileno(), reader)
        await asyncio.sleep(0.05)
        assert called == [1]
        for both in pairs:
            for sock in both:
                sock.close()

    assert run(main) == []


class Countdown:
    """Answers each number with the one before it, by itself down to stop."""

    def __init__(self, start: int, stop: int) -> None:
        self.awaited = b"%d" % start
        self.following = iter([(b"%d" % n, memoryview(b"%d" % n)) for n in range(start - 1, stop - 1, -1)])
        self.since = 0.0
        self.told: list[bytes | int | None] = []

    def heard(self, datagram: bytes) -> bool:
        self.told.append(datagram)
        return False

    def broken(self, error: OSError) -> None:
        self.told.append(error.errno)


def test_a_dialogue_answers_what_is_awaited() -> None:
    async def main(loop: DirectLoop) -> None:
        near, far = pair()
        far.setblocking(False)
        dialogue = Countdown(5, 3)
        loop.add_dialogue(near.fileno(), dialogue)
        before = loop.time()
        for said, answer in ((b"5", b"4"), (b"5", None), (b"", None), (b"4", b"3"), (b"3", None)):
            far.send(said)
            await asyncio.sleep(0.01)
            with suppress(BlockingIOError):
                assert far.recv(10) == answer
        assert dialogue.told == [b"5", b"", b"3"]  # a copy, another thing, and what nothing follows
        assert before <= dialogue.since <= loop.time()
        loop.remove_direct_reader(near.fileno())
        near.close()
        far.close()

    assert run(main) == []


def test_a_broken_dialogue_is_told() -> None:
    async def main(loop: DirectLoop) -> None:
        near, far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(2))
        near.bind(("127.0.0.1", 0))
        far.bind(("127.0.0.1", 0))
        near.connect(far.getsockname())
        far.connect(near.getsockname())
        dialogue = Countdown(5, 0)
        loop.add_dialogue(near.fileno(), dialogue)
        far.send(b"5")
        far.close()  # nobody is there for the answer
        await asyncio.sleep(0.02)
        assert dialogue.told == [errno.ECONNREFUSED]
        loop.remove_direct_reader(near.fileno())
        near.close()

    assert run(main) == []


def test_ordinary_readers_and_writers_change_as_ever() -> None:
    async def main(loop: DirectLoop) -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        events: list[str] = []
        loop.add_writer(near.fileno(), events.append, "writable")
        await asyncio.sleep(0.01)
        loop.add_reader(near.fileno(), lambda: events.append(near.recv(10).decode()))
        loop.remove_writer(near.fileno())
        events.clear()
        far.send(b"data")
        await asyncio.sleep(0.01)
        assert events == ["data"]
        far.close()
        await asyncio.sleep(0.01)
        assert events[-1] == ""  # a hang-up is readable
        loop.remove_direct_reader(near.fileno())  # it never was one: nothing happens
        loop.remove_reader(near.fileno())
        near.close()

    assert run(main) == []


def test_nothing_stays_open() -> None:
    async def nothing() -> None:
        await asyncio.sleep(0)

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with asyncio.Runner(loop_factory=DirectLoop) as runner:
            runner.run(nothing())
    assert len(os.listdir("/proc/self/fd")) == before
