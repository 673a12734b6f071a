"""Real clients get a lease, renew it and release it: udhcpc, dhclient, dhcpcd; and a real relay passes them on."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import Host
from tests.wire.client import ANY, DISCOVER, IPXE, PXE, UEFI, Client, mac
from tests.wire.servers import ADDRESS, POOL, RELAYED_GATEWAY, RELAYED_POOL, Lan, lan, ours

pytestmark = [pytest.mark.needs_root, pytest.mark.slow, ours]
LEASE = 60  # seconds, the least; clients renew after half of it
# Each client calls it with its own words for what happened; it notes them and sets the address, as the real ones do.
SCRIPT = """#!/bin/sh
case "$1$reason" in
bound|renew|BOUND|RENEW|REBIND|REBOOT)
    ip address replace "${ip:-$new_ip_address}/24" dev eth0
    echo "${ip:-$new_ip_address} ${router:-$new_routers} ${domain:-$new_domain_name}" >> "$NOTES" ;;
esac
"""
CLIENTS = {
    "udhcpc": "exec udhcpc -i eth0 -f -R -s {script}",
    "dhclient": "exec dhclient -d -4 -cf /dev/null -lf {directory}/leases -pf {directory}/pid -sf {script} -e NOTES=$NOTES eth0",
    # It keeps its files below /var/lib and /run whatever it is told: `ip netns exec` gives it mounts of its own.
    "dhcpcd": "mount -t tmpfs none /var/lib/dhcpcd && mount -t tmpfs none /run && "
    "exec dhcpcd -B -4 --noipv4ll --noarp --config /dev/null --script {script} --env NOTES=$NOTES "
    "--option routers --option domain_name eth0",
}


@pytest.fixture(scope="module")
def net() -> Iterator[Lan]:
    with lan("server") as it:
        it.lease = LEASE
        it.start()
        yield it


def begin(net: Lan, host: Host, client: str) -> Path:
    """Start a real client there; the file of its notes."""
    directory = net.directory / client
    directory.mkdir()
    script, notes = directory / "script", directory / "notes"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    command = CLIENTS[client].format(script=script, directory=directory)
    with (directory / "log").open("wb") as log:
        host.start("sh", "-c", f"NOTES={notes}; export NOTES; {command}", stdout=log, stderr=log)
    return notes


def said(notes: Path) -> list[str]:
    return notes.read_text().splitlines() if notes.exists() else []


def until(condition: object, seconds: float) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def test_real_clients_get_and_renew_their_leases(net: Lan) -> None:
    clients = [client for client in CLIENTS if shutil.which(client)]
    assert clients, "none of udhcpc, dhclient, dhcpcd is installed"
    hosts = {client: net.switch.host(client, mac=mac(0x300 + number).hex(":")) for number, client in enumerate(clients)}
    notes = {client: begin(net, host, client) for client, host in hosts.items()}
    until(lambda: all(len(said(each)) >= 2 for each in notes.values()), 45)
    for client, each in notes.items():
        lines = said(each)
        assert len(lines) >= 2, f"{client}: {lines}\n{(each.parent / 'log').read_text()}\n{net.said()}"
        address, router, domain = lines[0].split()
        assert address in POOL and (router, domain) == (ADDRESS, "lab.example")
        assert {line.split()[0] for line in lines} == {address}
    assert len({said(each)[0].split()[0] for each in notes.values()}) == len(clients)


def test_one_machine_keeps_one_address_from_its_rom_to_linux(net: Lan) -> None:
    """Each stage sends another client identifier, or none (poseidon/matchbox#245)."""
    chaddr = mac(0x400)
    stages = [PXE, UEFI, {61: b"\1" + chaddr, **IPXE}]
    addresses = {net.client.lease(chaddr, stage).message.yiaddr for stage in stages}
    host = net.switch.host("linux", mac=chaddr.hex(":"))
    net.client.holds.clear()
    (net.directory / "linux").mkdir()
    host.run("udhcpc", "-i", "eth0", "-n", "-q", "-f", "-s", "/bin/true", "-x", "0x3d:ff00010203", check=False)
    (offer,) = net.client.discover(chaddr)
    assert addresses == {offer.message.yiaddr}
    assert re.search(rf"{chaddr.hex(':')} dhcp acked address={offer.message.yiaddr} why=", net.said())


@pytest.mark.skipif(shutil.which("dhcrelay") is None, reason="dhcrelay (isc-dhcp-relay) is not installed")
@pytest.mark.skipif(shutil.which("udhcpc") is None, reason="udhcpc is not installed")
def test_a_real_relay_with_two_helpers(net: Lan) -> None:
    """`ip helper` to us and to a router that is not there: a machine behind it is leased an address of its own subnet."""
    relay = net.switch.host("relay", "10.77.0.3/24")
    behind = net.switch._network.switch("behind")
    behind.plug(relay, "eth1", f"{RELAYED_GATEWAY}/24")
    machine = behind.host("machine", mac=mac(0x500).hex(":"))
    net.server.ip("route", "replace", "10.88.0.0/24", "via", "10.77.0.3")
    relay.start("dhcrelay", "-4", "-d", "--no-pid", "-a", "-i", "eth0", "-i", "eth1", ADDRESS, "10.77.0.250")
    time.sleep(0.5)
    shutil.rmtree(net.directory / "udhcpc", ignore_errors=True)
    notes = begin(net, machine, "udhcpc")
    until(lambda: said(notes), 10)
    (address, router, _), *_ = (line.split(" ") for line in said(notes))
    assert address in RELAYED_POOL and router == RELAYED_GATEWAY


@pytest.mark.skipif(shutil.which("dhcrelay") is None, reason="dhcrelay (isc-dhcp-relay) is not installed")
@pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="dnsmasq is not installed")
def test_a_proxy_and_a_router_as_the_two_helpers_of_a_real_relay() -> None:
    """A machine behind it hears both: the router's address and our boot data."""
    with lan("proxy") as net:
        net.start()
        router, relay = net.switch.host("router", "10.77.0.250/24"), net.switch.host("relay", "10.77.0.3/24")
        behind = net.switch._network.switch("behind")
        behind.plug(relay, "eth1", f"{RELAYED_GATEWAY}/24")
        for host in (net.server, router):
            host.ip("route", "replace", "10.88.0.0/24", "via", "10.77.0.3")
        router.start(
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=", "--no-ping"),
            *("--dhcp-range=10.88.0.50,10.88.0.60,255.255.255.0", "--dhcp-leasefile=/dev/null", "--log-facility=/dev/null"),
        )
        relay.start("dhcrelay", "-4", "-d", "--no-pid", "-a", "-i", "eth0", "-i", "eth1", ADDRESS, "10.77.0.250")
        with Client(behind.host("machine")) as machine:
            for flags in (0x8000, 0):  # EDK2 and iPXE
                heard: dict[str, str] = {}
                deadline = time.monotonic() + 10
                while len(heard) < 2 and time.monotonic() < deadline:
                    question = machine.message(DISCOVER, mac(0x600), UEFI, flags=flags)
                    for offer in machine.ask(question, wanted=2, wait=1.0):
                        heard[offer.address(54)] = offer.message.yiaddr
                assert heard.keys() == {ADDRESS, "10.77.0.250"}
                assert heard[ADDRESS] == ANY and heard["10.77.0.250"].startswith("10.88.0.")
