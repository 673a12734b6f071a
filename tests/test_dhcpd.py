"""The DHCP service on real sockets, in this process: what happens around an answer."""

import asyncio
import io
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pixieboot import config
from pixieboot.errors import OperatorError
from pixieboot.journal import Journal
from pixieboot.leases import Leases
from pixieboot.model import Event, LeaseState, Mac, Network, Pool
from pixieboot.registry import Registry
from pixieboot.registry.sqlite import StateStore, StoreError
from pixieboot.serve import neighbours
from pixieboot.serve.bootapi import BootApi
from pixieboot.serve.context import Context
from pixieboot.serve.dhcpd import DhcpService
from pixieboot.serve.links import Link, Sites, read_links
from pixieboot.serve.ports import others
from pixieboot.serve.sender import Sender
from pixieboot.serve.udp import UdpPort
from pixieboot.wire.dhcp import Message, encode
from tests import upstreamhost
from tests.netns import Host, Switch
from tests.netns import Network as Cables
from tests.wire.client import ACK, DISCOVER, OFFER, PXE, REQUEST, UEFI, Answer, Client, mac

pytestmark = pytest.mark.needs_root
SERVER = Network(interface="eth0", mode="server", pools=(Pool(0x0A080064, 0x0A0800C8),), force=True, probe=False)
PROXY = Network(interface="eth0")
WHO, OURS = mac(0x77), socket.inet_aton("10.8.0.1")


@pytest.fixture(scope="module")
def wire() -> Iterator[Switch]:
    with Cables("dhcpd") as cables:
        yield cables.switch()


@pytest.fixture(scope="module")
def host(wire: Switch) -> Host:
    return wire.host("server", "10.8.0.1/24")


@pytest.fixture(scope="module")
def client(wire: Switch) -> Iterator[Client]:
    with Client(wire.host("client")) as it:
        yield it


class Served:
    """A running service, what it knows, and what it told the journal."""

    def __init__(self, context: Context, service: DhcpService) -> None:
        self.context, self.service = context, service
        self.events: list[Event] = []
        context.journal.listen(self.events.append)

    async def ask(self, client: Client, kind: int, options: dict[int, bytes], who: bytes = WHO, **how: Any) -> list[Answer]:
        message = client.message(kind, who, options)
        return await asyncio.to_thread(lambda: client.ask(message, **{"wait": 1.0, **how}))

    def told(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.02)


@asynccontextmanager
async def serving(
    host: Host, directory: Path, *networks: Network, machines: str = "", source: str = "", **changes: Any
) -> AsyncIterator[Served]:
    registry_path = directory / "registry"
    registry_path.mkdir(exist_ok=True)
    (registry_path / "machines.yaml").write_text(machines)
    settings = replace(config.load(None, {}), networks=networks, registry=source or str(registry_path), **changes)
    registry = Registry(source or settings.registry)
    registry.load()
    store = StateStore.open(directory / "state.db")

    def links() -> list[Link]:
        with host.entered():
            return read_links()

    with host.entered():
        sites = Sites(settings, links)
        context = Context(settings, registry, store, Leases(store.leases()), Journal(io.StringIO()), sites)
        if registry.machines is not None:
            context.boot_api = BootApi(context, registry.machines)
        service = DhcpService(context)
        service.bind()
        sites.start()
    served = Served(context, service)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(service.run())
            await asyncio.sleep(0)
            yield served
            running.cancel()
    finally:
        await service.stop(0)
        sites.close()
        store.close()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other servers are waited for half a second instead of three and a half."""
    monkeypatch.setattr(neighbours, "TRIES", (0.0, 0.1, 0.1))
    monkeypatch.setattr(neighbours, "PATIENCE", 0.3)


def test_a_lease_that_cannot_be_kept_is_not_acknowledged_and_somebody_is_told(
    host: Host, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with serving(host, tmp_path, SERVER) as served:
            (offer,) = await served.ask(client, DISCOVER, {})
            chosen = {50: bytes(map(int, offer.message.yiaddr.split("."))), 54: offer.message.options[54]}
            commit = StateStore._commit
            monkeypatch.setattr(StateStore, "_commit", lambda *_: StoreError(28, "the disk is full"))
            assert await served.ask(client, REQUEST, chosen, wait=0.3) == []
            (alarm,) = served.told("lease not kept")
            assert alarm.level == "alarm" and alarm.mac == Mac.of(WHO) and "disk is full" in alarm.detail["why"]
            record = served.context.leases.at(offer.message.yiaddr)
            assert record is None or record.state is not LeaseState.BOUND
            monkeypatch.setattr(StateStore, "_commit", commit)
            (ack,) = await served.ask(client, REQUEST, chosen)
            assert ack.type == ACK
            record = served.context.leases.at(offer.message.yiaddr)
            monkeypatch.setattr(StateStore, "_commit", lambda *_: StoreError(28, "the disk is full"))
            assert await served.ask(client, REQUEST, chosen, wait=0.3) == []
            assert served.context.leases.at(offer.message.yiaddr) is record, "what it was acknowledged before holds on"
            monkeypatch.setattr(StateStore, "_commit", commit)
            (ack,) = await served.ask(client, REQUEST, chosen)
            assert ack.type == ACK and served.context.leases.at(offer.message.yiaddr) is not record
            assert not served.context.leases._before, "and what is on disk need not be undone"

    asyncio.run(work())


def test_server_mode_does_not_begin_beside_another_server(wire: Switch, host: Host, client: Client, tmp_path: Path) -> None:
    other = wire.host("other", "10.8.0.2/24", mac="52:54:00:00:08:02")
    dnsmasq = other.start(
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=", "--no-ping"),
        *("--interface=eth0", "--dhcp-range=10.8.0.50,10.8.0.60", "--dhcp-leasefile=/dev/null", "--log-facility=/dev/null"),
    )

    async def refused() -> None:
        async with serving(host, tmp_path, replace(SERVER, force=False)):
            await asyncio.sleep(5)

    async def forced() -> None:
        async with serving(host, tmp_path, SERVER) as served:
            await served.until(lambda: served.told("other DHCP server"))
            (event,) = served.told("other DHCP server")
            assert event.detail["server"] == "10.8.0.2" and event.level == "info"

    async def beside() -> None:
        async with serving(host, tmp_path, PROXY) as served:
            await served.until(lambda: served.told("other DHCP server"))
            assert [known.address for known in served.service.neighbours.present()] == ["10.8.0.2"]

    try:
        with pytest.raises(ExceptionGroup) as group:
            asyncio.run(refused())
        (error,) = group.value.exceptions
        assert isinstance(error, OperatorError)
        assert error.what == "a DHCP server 10.8.0.2 (52:54:00:00:08:02) leases addresses on eth0 already"
        assert "force: true" in error.mend and "dhcp: proxy" in error.mend
        asyncio.run(forced())
        asyncio.run(beside())
    finally:
        other.stop(dnsmasq)


def test_a_server_that_clients_name_is_an_alarm_in_server_mode(host: Host, client: Client, tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(host, tmp_path, replace(SERVER, force=False)) as served:
            assert await served.ask(client, DISCOVER, {}, wait=0.2) == []  # not before it is known who else leases here
            await asyncio.sleep(0.6)
            (offer,) = await served.ask(client, DISCOVER, {})
            assert offer.type == OFFER
            for server in (bytes(4), b"\x0a\x08\0\x09"):  # the first is nobody's address
                assert await served.ask(client, REQUEST, {50: b"\x0a\x08\0\x50", 54: server}, wait=0.3) == []
            (event,) = served.told("other DHCP server")
            assert (event.level, event.detail["server"]) == ("alarm", "10.8.0.9")

    asyncio.run(work())


def test_strangers_are_left_to_another_pxe_server(wire: Switch, host: Host, client: Client, tmp_path: Path) -> None:
    other = wire.host("otherpxe", "10.8.0.3/24")
    dnsmasq = other.start(
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file="),
        *("--interface=eth0", "--dhcp-range=10.8.0.0,proxy", "--pxe-service=X86-64_EFI,x,ipxe.efi", "--log-facility=/dev/null"),
    )
    known = f"web1: {{mac: '{mac(0x78).hex(':')}'}}\n"

    async def work() -> None:
        async with serving(host, tmp_path, PROXY, machines=known) as served:
            await served.until(lambda: served.told("other PXE server"))
            # dnsmasq answers as well: only ours count
            ours = [a for a in await served.ask(client, DISCOVER, UEFI, wanted=9, wait=0.4) if a.source == "10.8.0.1"]
            assert ours == []
            described = await served.ask(client, DISCOVER, UEFI, mac(0x78), wanted=9, wait=0.4)
            assert "10.8.0.1" in {answer.source for answer in described}

    try:
        asyncio.run(work())
    finally:
        other.stop(dnsmasq)


def test_a_machine_that_needs_it_is_answered_late_and_others_meanwhile(host: Host, client: Client, tmp_path: Path) -> None:
    slow = f"pi: {{mac: '{WHO.hex(':')}', reply_delay: 1s}}\n"

    async def work() -> None:
        async with serving(host, tmp_path, PROXY, machines=slow) as served:
            late = client.message(DISCOVER, WHO, PXE)
            client.send(late)
            (quick,) = await served.ask(client, DISCOVER, PXE, mac(0x79))
            assert quick.seconds < 0.5
            (answer,) = await asyncio.to_thread(lambda: client.answers(lambda a: a.message.xid == late.xid, 2.0))
            assert answer.message.chaddr == WHO

    asyncio.run(work())


def test_a_style_that_leads_nowhere_is_changed_and_what_worked_stays(
    host: Host, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixieboot.pxe.Styles.APART", 0.0)

    async def work() -> None:
        async with serving(host, tmp_path, PROXY) as served:
            for _ in range(3):
                await served.ask(client, DISCOVER, UEFI)
            (change,) = served.told("style")
            assert change.detail["style"] in ("direct", "menu")  # after binl, where UEFI begins
            key = Mac.of(WHO)
            assert served.context.store.state(key).reply_style == change.detail["style"]
            loaded = {"path": f"{key.dashed}/ipxe.efi", "bytes": 1}
            served.context.journal.record(Event(2e9, key, "tftp", "sent", loaded))
            (works,) = served.told("style works")
            assert works.detail["style"] == change.detail["style"]
            for _ in range(9):  # and when none works at all, the operator is told what to set on the router
                await served.ask(client, DISCOVER, UEFI)
            assert [event.level for event in served.told("style")] == ["warning", "warning", "warning", "alarm"]
            assert "option 67" in served.told("style")[-1].detail["why"]

    asyncio.run(work())
    store = StateStore.open(tmp_path / "state.db")
    assert store.state(Mac.of(WHO)).reply_style
    store.close()


def test_a_loader_loaded_three_times_without_its_script_is_changed(host: Host, client: Client, tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(host, tmp_path, PROXY) as served:
            key = Mac.of(WHO)

            def load(at: float, times: int, name: str) -> None:
                for number in range(times):
                    detail = {"path": f"{key.dashed}/{name}", "bytes": number}
                    served.context.journal.record(Event(at + number, key, "tftp", "sent", detail))

            (offer,) = await served.ask(client, DISCOVER, UEFI)
            assert offer.message.file.endswith(b"/ipxe.efi")
            now = served.service._clock()
            load(now, 2, "ipxe.efi")
            served.context.journal.record(Event(now + 3, key, "http", "script", {"path": "/ipxe"}))
            load(now + 4, 2, "ipxe.efi")
            assert not served.told("loop")
            load(now + 10, 1, "ipxe.efi")
            (loop,) = served.told("loop")
            assert "3 times" in loop.detail["why"]
            (offer,) = await served.ask(client, DISCOVER, UEFI)
            assert offer.message.file.endswith(b"/snponly.efi")
            load(now + 20, 3, "snponly.efi")
            (offer,) = await served.ask(client, DISCOVER, UEFI)
            assert offer.message.file.endswith(b"/ipxe.efi")

    asyncio.run(work())


def test_a_link_that_comes_late_is_served(wire: Switch, host: Host, tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(host, tmp_path) as served:
            late = wire._network.switch("late")
            late.plug(host, "eth9", "10.9.0.1/24")
            with Client(late.host("machine")) as there:
                await served.until(lambda: any(site.interface == "eth9" for site in served.context.sites.sites))
                (offer,) = await served.ask(there, DISCOVER, UEFI)
                assert (offer.source, offer.message.siaddr) == ("10.9.0.1", "10.9.0.1")
            host.ip("link", "delete", "eth9")

    asyncio.run(work())


def test_what_is_ignored_or_malformed_is_told_once_with_its_reason(host: Host, client: Client, tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(host, tmp_path, PROXY) as served:
            for _ in range(3):
                await served.ask(client, DISCOVER, {60: b"MSFT 5.0"}, wait=0.1)
                client.send(b"\x01\x01\x06" + bytes(10))
                client.send(b"\x01\x01\x06" + bytes(20))
            await served.until(lambda: served.context.journal.counts.get(("dhcp", "malformed"), 0) == 6)
            (ignored,), (malformed,) = served.told("ignored"), served.told("malformed")
            assert "neither a PXE nor an HTTP boot client" in ignored.detail["why"] and ignored.mac == Mac.of(WHO)
            assert "the shortest is" in malformed.detail["why"]

    asyncio.run(work())


def test_the_same_question_gets_the_same_answer_until_a_fact_changes(host: Host, client: Client, tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(host, tmp_path, PROXY, machines=f"web1: {{mac: '{WHO.hex(':')}'}}\n") as served:
            payloads = [(await served.ask(client, DISCOVER, UEFI))[0].payload for _ in range(2)]
            assert payloads[0][8:] == payloads[1][8:] and payloads[0][4:8] != payloads[1][4:8]
            state = served.context.store.state("web1")
            served.context.store.set_state("web1", replace(state, reply_style="direct"))
            (offer,) = await served.ask(client, DISCOVER, UEFI)
            assert offer.option(43) == b"\6\1\x08\xff"
            path = tmp_path / "registry" / "machines.yaml"
            path.write_text(f"web1: {{mac: '{WHO.hex(':')}', loader: shimx64.efi}}\n")
            served.context.registry.reload()
            (offer,) = await served.ask(client, DISCOVER, UEFI)
            assert offer.message.file.endswith(b"/shimx64.efi")

    asyncio.run(work())


def test_another_daemon_on_the_same_port_is_named(host: Host, tmp_path: Path) -> None:
    dnsmasq = host.start(
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=", "--interface=lo"),
        *(
            "--interface=eth0",
            "--bind-interfaces",
            "--dhcp-range=127.0.0.50,127.0.0.60",
            "--dhcp-leasefile=/dev/null",
            "--log-facility=/dev/null",
        ),
    )

    async def work() -> None:
        with host.entered():
            async with asyncio.timeout(5):
                while not others(67):
                    await asyncio.sleep(0.02)
        async with serving(host, tmp_path, PROXY) as served:
            await served.until(lambda: served.told("shared port"))
            (event,) = served.told("shared port")
            assert f"UDP port 67 is shared with dnsmasq (process {dnsmasq.pid})" in event.detail["why"]

    async def leasing(force: bool) -> None:
        directory = tmp_path / f"force-{force}"
        directory.mkdir()
        async with serving(host, directory, replace(SERVER, force=force)) as served:
            await served.until(lambda: served.told("shared port"))

    try:
        asyncio.run(work())
        with pytest.raises(OperatorError) as refused:
            asyncio.run(leasing(force=False))
        assert refused.value.where == "interface eth0" and "force: true" in refused.value.mend
        assert refused.value.what.startswith(f"dnsmasq (process {dnsmasq.pid}) has port 67 open on this host")
        asyncio.run(leasing(force=True))
    finally:
        host.stop(dnsmasq)


def test_a_daemon_for_another_interface_alone_disturbs_nobody(wire: Switch, host: Host, client: Client, tmp_path: Path) -> None:
    wire._network.switch("virtual").plug(host, "virbr0", "10.6.0.1/24")
    dnsmasq = host.start(
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file="),
        *("--interface=virbr0", "--except-interface=lo", "--bind-interfaces", "--dhcp-range=10.6.0.50,10.6.0.60"),
        *("--dhcp-leasefile=/dev/null", "--log-facility=/dev/null"),
    )

    async def work() -> None:
        with host.entered():
            async with asyncio.timeout(5):
                while not others(67):
                    await asyncio.sleep(0.02)
        async with serving(host, tmp_path, replace(SERVER, force=False)) as served:
            await served.until(lambda: served.service._cleared)
            (offer,) = await served.ask(client, DISCOVER, {})
            assert offer.type == OFFER and not served.told("shared port")

    try:
        asyncio.run(work())
    finally:
        host.stop(dnsmasq)
        host.ip("link", "delete", "virbr0")


def test_a_second_pixieboot_is_refused_on_an_interface_that_the_first_serves(host: Host, tmp_path: Path) -> None:
    async def work() -> None:
        (tmp_path / "first").mkdir()
        (tmp_path / "second").mkdir()
        async with serving(host, tmp_path / "first", PROXY):
            async with serving(host, tmp_path / "second", replace(SERVER, force=True)):
                pass

    with pytest.raises(ExceptionGroup) as group:
        asyncio.run(work())
    assert "another pixieboot (process" in str(group.value.exceptions[0])


def test_servers_that_come_later_are_an_alarm(
    wire: Switch, host: Host, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In proxy mode as well: a second server that leases, and one that boots."""
    monkeypatch.setattr("pixieboot.serve.dhcpd.PROBE_EVERY", 0.5)
    first = wire.host("first", "10.8.0.4/24")
    second = wire.host("second", "10.8.0.5/24")
    third = wire.host("third", "10.8.0.6/24")
    common = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=", "--no-ping"]
    common += ["--interface=eth0", "--dhcp-leasefile=/dev/null", "--log-facility=/dev/null"]

    async def work() -> None:
        router = first.start(*common, "--dhcp-range=10.8.0.50,10.8.0.60")
        await asyncio.sleep(0.3)
        async with serving(host, tmp_path, PROXY) as served:
            await served.until(lambda: served.service._looked)
            assert [(event.detail["server"], event.level) for event in served.told("other DHCP server")] == [("10.8.0.4", "info")]
            rogue = second.start(*common, "--dhcp-range=10.8.0.70,10.8.0.80")
            await served.until(lambda: len(served.told("other DHCP server")) > 1)
            late = served.told("other DHCP server")[-1]
            assert (late.detail["server"], late.level) == ("10.8.0.5", "alarm")
            booter = third.start(*common, "--dhcp-range=10.8.0.0,proxy", "--pxe-service=X86-64_EFI,x,ipxe.efi")
            await served.until(lambda: served.told("other PXE server"))
            (pxe,) = served.told("other PXE server")
            assert (pxe.detail["server"], pxe.level) == ("10.8.0.6", "alarm")
        for each, process in ((first, router), (second, rogue), (third, booter)):
            each.stop(process)

    asyncio.run(work())


def test_a_changed_address_is_the_source_of_the_next_answer(wire: Switch, client: Client, tmp_path: Path) -> None:
    moving = wire.host("moving", "10.8.0.30/24")

    async def work() -> None:
        async with serving(moving, tmp_path, PROXY) as served:
            (before,) = await served.ask(client, DISCOVER, UEFI)
            assert (before.source, before.message.siaddr, before.address(54)) == ("10.8.0.30",) * 3
            moving.ip("address", "add", "10.8.0.31/24", "dev", "eth0")
            moving.ip("address", "delete", "10.8.0.30/24", "dev", "eth0")
            moving.ip("address", "replace", "10.8.0.31/24", "dev", "eth0")  # the first one takes its secondaries along
            await served.until(lambda: [site.address for site in served.context.sites.sites] == ["10.8.0.31"])
            (after,) = await served.ask(client, DISCOVER, UEFI)
            assert (after.source, after.message.siaddr, after.address(54)) == ("10.8.0.31",) * 3
            assert after.message.sname == b"10.8.0.31"
            (script,) = await served.ask(client, DISCOVER, {**UEFI, 77: b"iPXE"})
            assert script.message.file == b"http://10.8.0.31:8080/boot.ipxe"

    asyncio.run(work())


def test_rfc2131_4_2_the_client_identifier_is_the_key_where_the_operator_says_so(
    host: Host, client: Client, tmp_path: Path
) -> None:
    async def work() -> None:
        async with serving(host, tmp_path, replace(SERVER, identify_by="client-id")) as served:
            asked = [
                (await served.ask(client, DISCOVER, {61: identifier}, who))[0].message.yiaddr
                for identifier, who in (
                    (b"\0one", mac(0x81)),
                    (b"\0two", mac(0x81)),
                    (b"\0one", mac(0x82)),
                    (b"\1" + mac(0x83), mac(0x83)),
                )
            ]
            assert asked[0] == asked[2] and len(set(asked)) == 3
            (bare,) = await served.ask(client, DISCOVER, {}, mac(0x83))  # 01 and the MAC is the MAC
            assert bare.message.yiaddr == asked[3]

    asyncio.run(work())


def test_with_dhcp_off_no_port_is_taken(host: Host, tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(host, tmp_path, Network(interface="eth0", mode="off")):
            with host.entered():
                assert others(67) == []
                other = UdpPort(67)
                other.bind()
                other.close()

    asyncio.run(work())


def stranger(number: int) -> dict[int, bytes]:
    return {**UEFI, 97: b"\0" + (number + 1000).to_bytes(16, "big")}


def test_strangers_of_one_kind_are_answered_each_for_itself(host: Host, client: Client, tmp_path: Path) -> None:
    described = f"web1: {{mac: '{mac(0x907).hex(':')}', address: 10.8.0.190}}\n"

    async def work() -> None:
        async with serving(host, tmp_path, SERVER, machines=described) as served:
            given = {}
            for number in range(0x900, 0x909):
                who, options = mac(number), stranger(number)
                (offer,) = await served.ask(client, DISCOVER, options, who)
                chosen = {50: bytes(map(int, offer.message.yiaddr.split("."))), 54: offer.message.options[54]}
                (ack,) = await served.ask(client, REQUEST, {**options, **chosen}, who)
                assert (ack.type, ack.mac, ack.message.yiaddr) == (ACK, who, offer.message.yiaddr)
                assert ack.message.file.decode() == f"{Mac.of(who).dashed}/ipxe.efi"
                assert ack.option(97) == options[97] and ack.message.chaddr == who
                given[number] = ack.message.yiaddr
                lease = served.context.leases.at(ack.message.yiaddr)
                assert lease and (lease.mac, lease.state) == (Mac.of(who), LeaseState.BOUND)
                assert served.context.store.seen(Mac.of(who))
            assert len(set(given.values())) == 9 and given[0x907] == "10.8.0.190"
            assert [event.mac for event in served.told("acked")] == [Mac.of(mac(number)) for number in range(0x900, 0x909)]
            assert any(form for cuts in served.service._memo._cuts.values() for cut in cuts for form in cut.forms.values())
        store = StateStore.open(tmp_path / "state.db")
        assert {lease.address for lease in store.leases()} == set(given.values())
        store.close()

    asyncio.run(work())


def test_what_is_asked_or_kept_in_one_go_is_answered_in_one(
    host: Host, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    flush = Sender.flush

    def counted(self: Sender) -> bool:
        left.append(len(self._gathered or ()))
        return flush(self)

    monkeypatch.setattr(Sender, "flush", counted)

    async def answered_together(served: Served, messages: list[Message], kind: str) -> None:
        left.clear()
        for message in messages:  # nothing is read meanwhile: this is the loop's own thread
            client.send(message)
        await served.until(lambda: served.context.journal.counts["dhcp", kind] == len(messages) and max(left, default=0) > 1)

    async def work() -> None:
        async with serving(host, tmp_path, SERVER) as served:
            asks = [client.message(DISCOVER, mac(number), UEFI) for number in range(0x940, 0x968)]
            await answered_together(served, asks, "offered")
            offers = [(lease.mac.octets, socket.inet_aton(lease.address)) for lease in served.context.leases.all()]
            takes = [client.message(REQUEST, who, {**UEFI, 50: address, 54: OURS}) for who, address in offers]
            await answered_together(served, takes, "acked")

    asyncio.run(work())


def test_a_stranger_that_comes_back_is_answered_from_memory(host: Host, client: Client, tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(host, tmp_path, SERVER) as served:

            async def lease(number: int) -> tuple[bytes, bytes]:
                who, options = mac(number), stranger(number)
                (offer,) = await served.ask(client, DISCOVER, options, who)
                chosen = {50: bytes(map(int, offer.message.yiaddr.split("."))), 54: offer.message.options[54]}
                (ack,) = await served.ask(client, REQUEST, {**options, **chosen}, who)
                return encode(replace(offer.message, xid=0)), encode(replace(ack.message, xid=0))

            def remembered(number: int) -> list[str]:
                held = served.service._memo._held.values()
                return [told.reply.kind for _, told in held if told.client.mac == Mac.of(mac(number))]

            for number in range(0x920, 0x923):
                first = await lease(number)
            assert not remembered(0x922), "it went by a form, and may never come back"
            assert await lease(0x922) == first and remembered(0x922) == ["offered", "acked"]
            assert await lease(0x922) == first

    asyncio.run(work())


def test_a_stranger_that_comes_back_is_not_told_of_a_lease_that_cannot_be_kept(
    host: Host, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with serving(host, tmp_path, SERVER) as served:
            for number in (0x930, 0x931, 0x932):
                who, options = mac(number), stranger(number)
                (offer,) = await served.ask(client, DISCOVER, options, who)
                options |= {50: bytes(map(int, offer.message.yiaddr.split("."))), 54: offer.message.options[54]}
                assert await served.ask(client, REQUEST, options, who)
            commit = StateStore._commit
            monkeypatch.setattr(StateStore, "_commit", lambda *_: StoreError(28, "the disk is full"))
            for _ in ("by the form", "from memory"):
                assert await served.ask(client, REQUEST, options, who, wait=0.1) == []
            assert len(served.service._memo._held) == 5 and not served.service._ports[67].failures
            monkeypatch.setattr(StateStore, "_commit", commit)
            (ack,) = await served.ask(client, REQUEST, options, who)
            assert (ack.type, ack.message.yiaddr) == (ACK, offer.message.yiaddr)

    asyncio.run(work())


def test_who_is_known_by_its_uuid_alone_is_told_nothing_from_before_its_firmware_said_it(
    host: Host, client: Client, tmp_path: Path
) -> None:
    uuid = bytes.fromhex("4c4c4544004235108052b4c04f4e3732")
    machines = "blade: {uuid: 4c4c4544-0042-3510-8052-b4c04f4e3732, address: 10.8.0.191}\n"
    system, firmware = {50: b"\x0a\x08\0\x96"}, {**UEFI, 97: b"\0" + uuid}

    async def work() -> None:
        async with serving(host, tmp_path, SERVER, machines=machines) as served:
            found = [
                (await served.ask(client, DISCOVER, options))[0].message.yiaddr for options in (system, system, firmware, system)
            ]
            assert found == ["10.8.0.150", "10.8.0.150", "10.8.0.191", "10.8.0.191"]
            asks = [encode(client.message(DISCOVER, who, system)) for who in (WHO, mac(0x78))]
            assert [served.service._is_awaited(datagram) for datagram in asks] == [True, False], "in a flood it comes first"

    asyncio.run(work())


def test_an_offer_tells_the_journal_how_long_the_client_has_been_asking(host: Host, client: Client, tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(host, tmp_path, PROXY) as served:
            for number, secs in ((0x910, 0), (0x911, 0), (0x912, 12)):
                message = client.message(DISCOVER, mac(number), stranger(number), secs=secs)
                (answer,) = await asyncio.to_thread(partial(client.ask, message, wait=1.0))
                assert answer.type == OFFER
            assert [event.detail.get("secs") for event in served.told("offered")] == [None, None, 12]

    asyncio.run(work())


def test_in_a_flood_whoever_has_a_lease_or_a_description_is_served(host: Host, client: Client, tmp_path: Path) -> None:
    described = f"web1: {{mac: '{mac(0x921).hex(':')}', address: 10.8.0.191}}\n"

    async def work() -> None:
        async with serving(host, tmp_path, SERVER, machines=described) as served:
            (offer,) = await served.ask(client, DISCOVER, PXE, mac(0x920))
            chosen = {**PXE, 50: bytes(map(int, offer.message.yiaddr.split("."))), 54: offer.message.options[54]}
            (bound,) = await served.ask(client, REQUEST, chosen, mac(0x920))
            assert bound.type == ACK
            # Nothing is read meanwhile: this is the loop's own thread.
            for number in range(4000):
                client.send(client.message(DISCOVER, b"\x02" + number.to_bytes(5, "big"), stranger(number)))
            renewal = client.message(REQUEST, mac(0x920), chosen)
            reserved = client.message(DISCOVER, mac(0x921), UEFI)
            client.send(renewal)
            client.send(reserved)
            xids = {renewal.xid, reserved.xid}
            answers = await asyncio.to_thread(client.answers, lambda answer: answer.message.xid in xids, 10.0, 2)
            assert {answer.message.yiaddr for answer in answers} == {offer.message.yiaddr, "10.8.0.191"}
            await served.until(lambda: not served.service._ports[67].crowded)
            assert served.context.journal.counts["dhcp", "shed"] > 1000
            (flood,) = served.told("flood")
            assert flood.level == "warning" and flood.detail["interface"] == "eth0"
            taken = [lease for lease in served.context.leases.all() if lease.state is LeaseState.OFFERED]
            assert len(taken) <= 51 + 1, "no more than half of the pool goes to who asks but once"

    asyncio.run(work())


def test_a_machine_is_answered_once_an_api_said_what_it_boots_and_others_meanwhile(
    host: Host, client: Client, tmp_path: Path
) -> None:
    """The first DISCOVER gets its answer: firmware beside a router does not ask twice."""
    go = threading.Event()
    known, unknown = f"/v1/boot/{Mac.of(WHO)}", f"/v1/boot/{Mac.of(mac(0x78))}"

    def thinking(exchange: upstreamhost.Exchange) -> None:
        go.wait(5)
        body = b'{"kernel": "/k"}'
        exchange.head(200, Content_Length=len(body))
        exchange.wfile.write(body)

    async def work(api: upstreamhost.Origin) -> None:
        async with serving(host, tmp_path, PROXY, source=f"pixiecore+{api.url('')}", unknown="ignore") as served:
            client.send(client.message(DISCOVER, WHO, UEFI))
            await served.until(lambda: api.asked)
            # The loop is free: another one is asked about, and left alone.
            assert await served.ask(client, DISCOVER, UEFI, mac(0x78), wait=0.3) == []
            go.set()
            await served.until(lambda: served.told("offered"))
            assert served.told("offered")[0].mac == Mac.of(WHO)
            assert {path for path, _ in api.asked} == {known, unknown}
            api.acts[known] = lambda exchange: exchange.head(500, Content_Length=0)
            assert [answer.message.type for answer in await served.ask(client, DISCOVER, UEFI)] == [OFFER]

    with upstreamhost.serving() as api:
        api.acts[known] = thinking
        asyncio.run(work(api))


def test_an_api_is_asked_about_each_stranger(host: Host, client: Client, tmp_path: Path) -> None:
    """However alike they are: only the API knows who is one."""

    async def work(api: upstreamhost.Origin) -> None:
        async with serving(host, tmp_path, PROXY, source=f"pixiecore+{api.url('')}", unknown="menu") as served:
            for number in range(0x80, 0x84):
                assert [answer.message.type for answer in await served.ask(client, DISCOVER, UEFI, mac(number))] == [OFFER]
        assert [path for path, _ in api.asked] == [f"/v1/boot/{Mac.of(mac(number))}" for number in range(0x80, 0x84)]

    with upstreamhost.serving() as api:
        asyncio.run(work(api))
