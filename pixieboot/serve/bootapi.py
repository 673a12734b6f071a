"""Asks a foreign server with Pixiecore's API what each machine shall boot: in the background for DHCP, at once for scripts."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from pixieboot.errors import WireError
from pixieboot.model import Client, Event, Loader, Mac
from pixieboot.registry.pixiecore import PixiecoreMachines, Spec, question, spec_of
from pixieboot.serve.context import Context
from pixieboot.serve.upstream import Opener, Unanswered, unanswered

SECONDS = 5.0  # that an answer may take, as with Pixiecore
LONGEST = 1 << 20  # octets of an answer
THREADS = 8
WAITING = 256  # machines asked about at a time; more are strangers' doing
AGAIN = 2.0  # seconds in which one boot's packets are one question


class BootApi:
    """The API named by `registry`.  What it said last stays in force while it cannot be reached."""

    def __init__(self, context: Context, machines: PixiecoreMachines) -> None:
        self._context, self._machines = context, machines
        self._source = context.settings.registry
        self._opener = Opener()
        self._threads: list[threading.Thread] = []
        self._questions: SimpleQueue[tuple[Mac, Callable[[Spec | Unanswered | None], object]]] = SimpleQueue()
        self._asking: dict[Mac, asyncio.Future[Spec | Unanswered | None]] = {}
        self._told: dict[Mac, float] = {}  # when it was heard of a machine last

    def holds(self, client: Client, then: Callable[[], None]) -> bool:
        """True: this client is not known yet, and `then` is called once it was asked about.  Never waits.

        A client that is known is answered with what was said last, while the next answer is on its way.
        """
        if client.arch is None and client.loader is Loader.FIRMWARE:
            return False  # it does not boot from the network
        mac = client.mac
        known = self._machines.knows(mac)
        if time.monotonic() - self._told.get(mac, -AGAIN) < AGAIN:
            return False
        asking = self._ask(mac)
        if asking is None or known:
            return asking is None and not known
        asking.add_done_callback(lambda _: then())
        return True

    async def latest(self, mac: Mac) -> tuple[int, str] | None:
        """Ask about a machine now.  (status of our answer, what was wrong), if nothing is known of it for that reason."""
        asking = self._ask(mac)
        if asking is None:
            return 503, "too many machines are asked about at once: try again"
        answer = await asyncio.shield(asking)
        if not isinstance(answer, Unanswered) or self._machines.knows(mac):
            return None
        return answer.status, answer.sentence

    def _ask(self, mac: Mac) -> "asyncio.Future[Spec | Unanswered | None] | None":
        """The answer to come; None: there are too many questions already."""
        if mac in self._asking:
            return self._asking[mac]
        if len(self._asking) >= WAITING:
            return None
        loop = asyncio.get_running_loop()
        answer = self._asking[mac] = loop.create_future()
        late = Unanswered("the API did not answer in time", 504)
        loop.call_later(SECONDS, self._answered, mac, answer, late)
        if len(self._threads) < THREADS:
            self._threads.append(threading.Thread(target=self._work, name="pixiecore", daemon=True))
            self._threads[-1].start()

        def tell(said: Spec | Unanswered | None) -> None:
            loop.call_soon_threadsafe(self._answered, mac, answer, said)

        self._questions.put((mac, tell))
        return answer

    def _work(self) -> None:
        """In a thread, which nobody waits for at the daemon's end."""
        while True:
            mac, tell = self._questions.get()
            answer = self._get(mac)
            with suppress(RuntimeError):  # the loop is closed
                tell(answer)

    def _answered(self, mac: Mac, future: "asyncio.Future[Spec | Unanswered | None]", answer: Spec | Unanswered | None) -> None:
        if future.done():  # after its time: what it says counts all the same the next time
            return
        del self._asking[mac]
        if len(self._told) > WAITING * 16:
            self._told.clear()
        self._told[mac] = time.monotonic()
        if isinstance(answer, Unanswered):
            kept = ": its last answer is kept" if self._machines.knows(mac) else ""
            self._record(mac, "failed", {"why": f"{answer.sentence}{kept}"}, "warning")
        elif self._context.registry.learn(mac, answer):
            boots = (answer.kernel or "a script") if answer else "nothing"
            self._record(mac, "answered", {"boots": boots})
        elif answer is None:
            self._record(mac, "answered", {"boots": "nothing"}, "debug")
        future.set_result(answer)

    def _record(self, mac: Mac, kind: str, detail: dict[str, str], level: str = "info") -> None:
        self._context.journal.record(Event(time.time(), mac, "pixiecore", kind, detail, level))

    def _get(self, mac: Mac) -> Spec | Unanswered | None:
        """In a thread.  None: the API does not want this machine booted."""
        url = question(self._source, mac)
        try:
            with self._opener.get(url, {}, SECONDS, (200, *range(201, 500))) as response:
                if response.status != 200:
                    return None
                body = response.read(LONGEST + 1)
        except Unanswered as failure:
            return failure
        except Exception as error:
            return unanswered(url, error)
        if len(body) > LONGEST:
            return Unanswered(f"{url} answered more than {LONGEST} bytes")
        try:
            return spec_of(body, self._source, self._context.settings.pixiecore_files is not None)
        except WireError as error:
            return Unanswered(f"{url}: {error}")
        except Exception as error:  # a bug of ours must not end the thread that all other machines need too
            return Unanswered(f"{url}: its answer cannot be read ({type(error).__name__})")
