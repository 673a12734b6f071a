"""Numbers for Prometheus (text exposition format 0.0.4): what was answered, sent and judged, and how the daemon fares.

Written here and not by a library: it is a page of text, and the library would cost every daemon 3 MiB and 50 ms at start.
"""

import asyncio
import os
import resource
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from pixieboot import __version__
from pixieboot.boots import split
from pixieboot.model import Event
from pixieboot.serve.context import Context
from pixieboot.serve.history import History
from pixieboot.verdict import judge

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TRANSFER_BOUNDS = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
LAG_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1)
LAG_EVERY = 1.0
BREATH = 16

Labels = Mapping[str, str]


class Histogram:
    """Observations by upper bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self, name: str, labels: Labels) -> Iterator[str]:
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            yield sample(f"{name}_bucket", total, {**labels, "le": str(bound)})
        yield sample(f"{name}_sum", self._sum, labels)
        yield sample(f"{name}_count", total, labels)


class Metrics:
    """A listener of the journal that counts what its counters do not: octets and durations."""

    def __init__(self, context: Context, history: History | None) -> None:
        self._context, self._history = context, history
        self._started = time.time()
        self._octets = {"tftp": 0, "http": 0}
        self._seconds = {"tftp": Histogram(TRANSFER_BOUNDS), "http": Histogram(TRANSFER_BOUNDS)}
        self._lag = Histogram(LAG_BOUNDS)
        self.close = context.journal.listen(self._on_event, tuple(self._octets))

    async def watch_loop(self) -> None:
        """Measure how late the loop wakes, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            expected = loop.time() + LAG_EVERY
            await asyncio.sleep(LAG_EVERY)
            self._lag.observe(max(0.0, loop.time() - expected))

    def _on_event(self, event: Event) -> None:
        if event.kind == "sent" and event.service in self._octets:
            self._octets[event.service] += int(event.detail.get("bytes") or 0)
            if (seconds := event.detail.get("seconds")) is not None:
                self._seconds[event.service].observe(float(seconds))

    async def render(self) -> str:
        """The page.  Judging every machine's last boot leaves the loop its turns in between."""
        outcomes = await self._outcomes()
        return "\n".join(self._lines(outcomes)) + "\n"

    async def _outcomes(self) -> dict[tuple[str, str], int]:
        """(outcome, verdict) -> how many machines' last boot came to it."""
        found: dict[tuple[str, str], int] = {}
        now = time.time()
        for number, mac in enumerate(self._context.journal.machines()):
            if number % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            if boots := split(self._context.journal.timeline(mac)):
                verdict = judge(boots[-1], now, None, boots[:-1])
                key = (verdict.outcome, verdict.name)
                found[key] = found.get(key, 0) + 1
        return found

    def _lines(self, outcomes: Mapping[tuple[str, str], int]) -> Iterator[str]:
        context, counts = self._context, self._context.journal.counts
        yield from family("pixieboot_info", "gauge", "The version that runs.", [(1, {"version": __version__})])
        yield from family("process_start_time_seconds", "gauge", "When it was started.", [(self._started, {})])
        yield from family(
            "pixieboot_events_total", "counter", "Facts recorded, by service and kind.",
            [(count, {"service": service, "kind": kind}) for (service, kind), count in sorted(counts.items())],
        )  # fmt: skip
        yield from family(
            "pixieboot_dhcp_replies_total", "counter", "DHCP and PXE messages answered, by kind.",
            [(count, {"kind": kind if service == "dhcp" else f"pxe {kind}"}) for (service, kind), count in sorted(counts.items())
             if (service, kind) in REPLIES],
        )  # fmt: skip
        states: dict[str, int] = {}
        for lease in context.leases.all():
            states[lease.state.value] = states.get(lease.state.value, 0) + 1
        yield from family(
            "pixieboot_leases", "gauge", "Addresses by state.", [(n, {"state": s}) for s, n in sorted(states.items())]
        )
        yield from family(
            "pixieboot_transfers_total", "counter", "Files by protocol and how they ended.",
            [(count, {"protocol": service, "outcome": kind}) for (service, kind), count in sorted(counts.items())
             if service in ("tftp", "http") and kind in ENDINGS],
        )  # fmt: skip
        yield from family(
            "pixieboot_transfer_bytes_total", "counter", "Octets of files that were sent whole.",
            [(octets, {"protocol": protocol}) for protocol, octets in self._octets.items()],
        )  # fmt: skip
        yield from head("pixieboot_transfer_seconds", "histogram", "How long files took that were sent whole.")
        for protocol, histogram in self._seconds.items():
            yield from histogram.samples("pixieboot_transfer_seconds", {"protocol": protocol})
        yield from family(
            "pixieboot_machines_by_last_boot", "gauge", "Machines heard, by what came of their last boot.",
            [(count, {"outcome": outcome, "verdict": name}) for (outcome, name), count in sorted(outcomes.items())],
        )  # fmt: skip
        inventory = context.registry.current
        yield from family("pixieboot_machines", "gauge", "Machines in the registry.", [(len(inventory.machines), {})])
        yield from family("pixieboot_networks", "gauge", "Networks that are served.", [(len(context.sites.sites), {})])
        rejected = counts.get(("registry", "rejected"), 0)
        yield from family("pixieboot_registry_rejected_total", "counter", "Faults in edits that were not taken.", [(rejected, {})])
        broken = 1 if self._history and self._history.error else 0
        yield from family("pixieboot_history_failing", "gauge", "1 while events cannot be written.", [(broken, {})])
        yield from head("pixieboot_loop_lag_seconds", "histogram", "How late the event loop woke, once a second.")
        yield from self._lag.samples("pixieboot_loop_lag_seconds", {})
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield from family("process_cpu_seconds_total", "counter", "CPU time.", [(usage.ru_utime + usage.ru_stime, {})])
        with suppress(OSError):
            with open("/proc/self/statm") as statm:
                resident = int(statm.read().split()[1]) * resource.getpagesize()
            yield from family("process_resident_memory_bytes", "gauge", "Memory in use.", [(resident, {})])
            yield from family("process_open_fds", "gauge", "Open files and sockets.", [(len(os.listdir("/proc/self/fd")), {})])


REPLIES = {("dhcp", kind) for kind in ("offered", "acked", "naked", "informed", "ignored")} | {("pxe", "acked"), ("pxe", "ignored")}
ENDINGS = {"sent", "failed", "missing", "refused", "probe"}


def family(name: str, kind: str, text: str, values: Iterable[tuple[float, Labels]]) -> Iterator[str]:
    """One metric with its help and all its samples."""
    yield from head(name, kind, text)
    yield from (sample(name, value, labels) for value, labels in values)


def head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def sample(name: str, value: float, labels: Labels) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value:.10g}" if inside else f"{name} {value:.10g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
