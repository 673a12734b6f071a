"""Scripts that are kept ready: never beyond what they were made of, and never too many."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pixieboot.model import Network
from pixieboot.serve import readyscripts
from pixieboot.serve.zerocopy_h11 import ZeroCopyH11
from tests.httphost import MAC, PROTOCOLS, REGISTRY, Host, booting, serving


@pytest.fixture(scope="module", params=PROTOCOLS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with booting(tmp_path_factory.mktemp("http"), request.param) as running:
        yield running


def test_an_edit_is_in_the_next_script(host: Host) -> None:
    """Rendered scripts are remembered; never beyond what they were made of."""
    assert b"assets/other" not in host.get(f"/ipxe?mac={MAC}").body
    old = host.context.store.state("web1")
    host.call(lambda: host.context.store.set_state("web1", replace(old, profile="other")))
    assert b"assets/other" in host.get(f"/ipxe?mac={MAC}").body
    host.call(lambda: host.context.store.set_state("web1", old))
    assert b"assets/other" not in host.get(f"/ipxe?mac={MAC}").body


@pytest.mark.parametrize("protocol", [each for each in PROTOCOLS.values() if each])
def test_where_no_network_is_served_the_entry_is_sent_and_a_script_refused(
    tmp_path: Path, protocol: type[asyncio.Protocol]
) -> None:
    with serving(tmp_path, protocol, REGISTRY, networks=(Network(interface="eth9"),)) as host:
        assert host.get("/boot.ipxe").status == host.get("/boot.ipxe").status == 200
        refused = host.get(f"/ipxe?mac={MAC}")
        assert (refused.status, b"No network is served" in refused.body) == (503, True)


@pytest.mark.parametrize("longer", [0, 30_000], ids=["many requests", "long requests"])
def test_ready_scripts_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longer: int) -> None:
    monkeypatch.setattr(readyscripts, "ROOM", 400_000)
    with serving(tmp_path, ZeroCopyH11, REGISTRY) as host, host.connect() as wire:
        for number in range(200):
            wire.send(f"GET /ipxe?mac={MAC}&number={number}{'x' * longer} HTTP/1.1\nHost: x")
            assert wire.response().status == 200
        kept = host.service._ready._scripts
        assert sum(len(key[0]) + len(known.response[1]) for key, known in kept.items()) < 400_000
        assert bool(kept) == (not longer)
