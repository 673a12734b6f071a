"""The command line's way to the daemon: UNIX socket, TCP with the token, events live, and nobody there."""

import threading
import time

import pytest

from pixieboot.client import Daemon, Unreachable
from pixieboot.errors import OperatorError
from pixieboot.model import Event
from tests.test_boots import MAC
from tests.test_operator import Running, daemon

__all__ = ["daemon"]


def test_by_tcp_with_the_token(daemon: Running) -> None:
    url = f"http://127.0.0.1:{daemon.port}"
    right = {"PIXIEBOOT_API": url, "PIXIEBOOT_TOKEN": "correct-horse-battery-staple"}
    assert Daemon.find(None, right).get("/machines")["total"] == 1
    with pytest.raises(OperatorError, match="token is missing or wrong"):
        Daemon.find(None, {**right, "PIXIEBOOT_TOKEN": "nonsense"}).get("/machines")
    with pytest.raises(OperatorError, match="no address of the API"):
        Daemon.find(None, {"PIXIEBOOT_API": "ftp://x"})
    with pytest.raises(Unreachable, match="no pixieboot answers there"):
        Daemon.find(None, {"PIXIEBOOT_API": "http://127.0.0.1:1"}).get("/machines")


def test_events_live(daemon: Running) -> None:
    found = Daemon.find(daemon.config, {})
    heard = []

    def listen() -> None:
        try:
            for event in found.follow():
                heard.append(event)
        except Unreachable:
            pass

    listener = threading.Thread(target=listen)
    listener.start()
    for number in range(100):
        daemon._loop.call_soon_threadsafe(daemon.happen, Event(time.time(), MAC, "dhcp", "offered", {"number": number}))
        if heard:
            break
        time.sleep(0.02)
    daemon._loop.call_soon_threadsafe(daemon.feed.stop)
    listener.join(5)
    assert heard[0]["kind"] == "offered"
