"""Bindings: who gets which address, for how long, and what happens when things go wrong.  Each rule by its RFC."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pixieboot.leases import (
    ASKED_LIFE,
    CONFLICT_QUARANTINE,
    DECLINE_QUARANTINE,
    HURRIED_HOLD,
    OFFER_HOLD,
    OFFERS_PER_SOURCE,
    PROBE_LIFE,
    Holder,
    Leases,
    inside,
)
from pixieboot.model import Lease, LeaseState, Mac, Network, Pool, Site

NOW = 1_800_000_000.0
HOUR = 3600.0


def a_pool(first: str, last: str) -> Pool:
    return Pool(int(IPv4Address(first)), int(IPv4Address(last)))


def a_site(*pools: Pool, subnet: str = "10.0.0.0/24", address: str = "10.0.0.1", **network: object) -> Site:
    known = pools or (a_pool("10.0.0.100", "10.0.0.103"),)
    return Site(
        replace(Network(mode="server", pools=known), **network),  # type: ignore[arg-type]
        "eth0",
        2,
        address,
        IPv4Network(subnet),
        "http://10.0.0.1:8080",
        {},
    )


def a_client(number: int, **fields: object) -> Holder:
    mac = Mac.of(bytes((2, 0, 0, 0, number >> 8, number & 255)))
    return replace(Holder(mac, mac), **fields)  # type: ignore[arg-type]


SITE = a_site()
ANNA, BERT, CARL, DORA, EMIL = (a_client(number) for number in range(1, 6))


def offered(leases: Leases, who: Holder, site: Site = SITE, reserved: str | None = None, wanted: str = "", now: float = NOW) -> str:
    """The address offered; "" for none."""
    lease = leases.offer(who, site, reserved, wanted, now)
    return "" if isinstance(lease, str) else lease.address


def bound(leases: Leases, who: Holder, address: str, site: Site = SITE, reserved: str | None = None, now: float = NOW) -> Lease:
    lease = leases.bind(who, site, reserved, address, HOUR, now)
    assert isinstance(lease, Lease), lease
    return lease


def dora(leases: Leases, who: Holder, now: float = NOW, site: Site = SITE, reserved: str | None = None) -> str:
    """DISCOVER and REQUEST: the address bound."""
    return bound(leases, who, offered(leases, who, site, reserved, now=now), site, reserved, now).address


def refused(outcome: Lease | str) -> str:
    assert isinstance(outcome, str)
    return outcome


# RFC 2131 §4.3.1: which address


def test_rfc2131_4_3_1_two_discovers_in_flight_get_two_addresses() -> None:
    leases = Leases()
    assert offered(leases, ANNA) != offered(leases, BERT)


def test_rfc2131_4_3_1_the_current_address_first() -> None:
    leases = Leases()
    address = dora(leases, ANNA)
    assert offered(leases, ANNA, wanted="10.0.0.103", now=NOW + 9) == address


def test_rfc2131_4_3_1_then_the_earlier_one() -> None:
    leases = Leases()
    address = dora(leases, ANNA)
    assert offered(leases, ANNA, wanted="10.0.0.103", now=NOW + 2 * HOUR) == address


def test_rfc2131_4_3_1_then_the_one_asked_for() -> None:
    assert offered(Leases(), ANNA, wanted="10.0.0.102") == "10.0.0.102"


@pytest.mark.parametrize("wanted", ["10.0.0.99", "10.0.0.1", "10.9.9.9", "255.255.255.255"])
def test_rfc2131_4_3_1_not_one_outside_the_pool(wanted: str) -> None:
    assert offered(Leases(), ANNA, wanted=wanted) == "10.0.0.100"


def test_rfc2131_4_3_1_not_one_that_is_held() -> None:
    leases = Leases()
    address = dora(leases, ANNA)
    assert offered(leases, BERT, wanted=address) == "10.0.0.101"


def test_rfc2131_4_3_1_never_used_before_used() -> None:
    leases = Leases()
    leases.release(ANNA, dora(leases, ANNA), NOW + 1)
    assert [offered(leases, who, now=NOW + 2) for who in (BERT, CARL, DORA, EMIL)] == [
        f"10.0.0.{last}" for last in (101, 102, 103, 100)
    ]


def test_rfc2131_4_3_1_least_recently_used_of_the_used() -> None:
    leases = Leases()
    held = {who.key: dora(leases, who) for who in (ANNA, BERT, CARL, DORA)}
    for at, who in enumerate((CARL, ANNA, DORA, BERT)):
        leases.release(who, held[who.key], NOW + at)
    assert offered(leases, EMIL, now=NOW + 9) == held[CARL.key]


def test_least_recently_used_over_all_pools() -> None:
    site = a_site(a_pool("10.0.0.10", "10.0.0.10"), a_pool("10.0.0.20", "10.0.0.20"))
    leases = Leases()
    first, second = dora(leases, ANNA, site=site), dora(leases, BERT, site=site)
    leases.release(BERT, second, NOW + 1)
    leases.release(ANNA, first, NOW + 2)
    assert offered(leases, CARL, site, now=NOW + 3) == second


def test_an_earlier_address_is_given_away_only_when_all_others_are() -> None:
    leases = Leases()
    address = dora(leases, ANNA)
    leases.release(ANNA, address, NOW)
    others = [dora(leases, who, NOW + 1) for who in (BERT, CARL, DORA)]
    assert address not in others
    assert offered(leases, EMIL, now=NOW + 2) == address
    assert offered(leases, ANNA, now=NOW + 2) == ""


def test_an_empty_pool_says_so() -> None:
    leases = Leases()
    for number in range(4):
        dora(leases, a_client(number))
    assert refused(leases.offer(EMIL, SITE, None, "", NOW)) == "no address is free in 10.0.0.100-10.0.0.103"
    assert (
        refused(Leases().offer(ANNA, replace(SITE, network=Network(mode="server")), None, "", NOW))
        == "no address is free in no pool"
    )


def test_edges_router_dns_and_our_own_address_are_nobodys() -> None:
    site = a_site(a_pool("10.0.0.0", "10.0.0.7"), subnet="10.0.0.0/29", routers=("10.0.0.2",), dns=("10.0.0.3",))
    leases = Leases()
    leases.withhold(["10.0.0.4"])
    assert [offered(leases, a_client(number), site) for number in range(4)] == ["10.0.0.5", "10.0.0.6", "", ""]
    for address in (f"10.0.0.{last}" for last in (0, 1, 2, 3, 4, 7)):
        assert offered(leases, EMIL, site, wanted=address) == ""


def test_a_router_that_new_settings_name_in_the_same_pools_is_nobodys() -> None:
    leases = Leases()
    assert offered(leases, ANNA) == "10.0.0.100" and dora(leases, BERT) == "10.0.0.101"
    leases.release(BERT, "10.0.0.101", NOW)
    new = a_site(a_pool("10.0.0.100", "10.0.0.103"), routers=("10.0.0.102",))
    assert [offered(leases, who, new) for who in (CARL, BERT, DORA, EMIL)] == ["10.0.0.103", "10.0.0.101", "", ""]
    later = {offered(leases, a_client(number), new, now=NOW + 2 * OFFER_HOLD) for number in range(10, 14)}
    assert later == {"10.0.0.100", "10.0.0.101", "10.0.0.103", ""}


def test_the_same_pools_in_another_subnet_are_other_addresses() -> None:
    leases = Leases()
    assert offered(leases, ANNA) == "10.0.0.100"
    narrow = replace(SITE, subnet=IPv4Network("10.0.0.100/30"))
    assert [offered(leases, who, narrow) for who in (BERT, CARL, DORA)] == ["10.0.0.101", "10.0.0.102", ""]
    assert offered(leases, DORA) == "10.0.0.103"


def test_networks_of_reservations_alone_do_not_drive_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all records would be looked through with each message."""
    first, second = (replace(a_site(subnet=subnet), network=Network(mode="server")) for subnet in ("10.0.0.0/24", "10.1.0.0/24"))
    leases = Leases()
    for _ in range(2):
        assert [offered(leases, ANNA, site, reserved) for site, reserved in ((first, "10.0.0.9"), (second, "10.1.0.9"))] == [
            "10.0.0.9",
            "10.1.0.9",
        ]
        monkeypatch.setattr(Leases, "_met", None)


def test_new_settings_forget_no_offer() -> None:
    leases = Leases()
    assert all(offered(leases, who) for who in (ANNA, BERT, CARL))
    lease = leases.offer(DORA, a_site(), None, "", NOW)
    assert isinstance(lease, Lease) and lease.expires == NOW + HURRIED_HOLD


def test_a_pool_ends_where_its_subnet_ends() -> None:
    site = a_site(a_pool("10.0.0.250", "10.0.1.5"), a_pool("10.5.0.1", "10.5.0.9"))
    leases = Leases()
    assert [offered(leases, a_client(number), site) for number in range(6)] == [*(f"10.0.0.{last}" for last in range(250, 255)), ""]


def test_a_link_of_two_has_no_edges() -> None:
    site = a_site(a_pool("10.0.0.0", "10.0.0.1"), subnet="10.0.0.0/31", address="10.0.0.1")
    assert offered(Leases(), ANNA, site) == "10.0.0.0"


def test_a_client_holds_one_address_on_each_network() -> None:
    there = a_site(a_pool("10.9.0.10", "10.9.0.20"), subnet="10.9.0.0/24", address="10.9.0.1")
    leases = Leases()
    here = dora(leases, ANNA)
    assert dora(leases, ANNA, site=there) == "10.9.0.10"
    assert offered(leases, ANNA) == here


@pytest.mark.parametrize("hold", [dora, offered])
def test_a_new_address_frees_the_old_one(hold: Callable[[Leases, Holder], str]) -> None:
    leases = Leases()
    old = hold(leases, ANNA)
    bound(leases, ANNA, "10.0.0.102")
    assert [lease.state for lease in leases.all() if lease.address == old] == [LeaseState.EXPIRED]


# Reservations


def test_the_reservation_comes_first_wherever_it_lies() -> None:
    leases = Leases()
    dora(leases, ANNA)
    for reserved in ("10.0.0.50", "10.0.0.103"):
        assert offered(leases, ANNA, reserved=reserved, wanted="10.0.0.101") == reserved


def test_a_reservation_of_another_network_is_none_here() -> None:
    assert offered(Leases(), ANNA, reserved="10.9.9.9") == "10.0.0.100"
    assert "neither in the pools" in refused(Leases().bind(ANNA, SITE, "10.9.9.9", "10.9.9.9", HOUR, NOW))


def test_a_reserved_address_is_never_anothers() -> None:
    leases = Leases()
    leases.withhold(["10.0.0.100"])
    assert offered(leases, BERT, wanted="10.0.0.100") == "10.0.0.101"
    assert "neither in the pools" in refused(leases.bind(BERT, SITE, None, "10.0.0.100", HOUR, NOW))
    assert offered(leases, ANNA, reserved="10.0.0.100") == "10.0.0.100"


def test_a_reservation_written_later_waits_for_its_holder() -> None:
    leases = Leases()
    address = dora(leases, BERT)
    leases.withhold([address])
    assert offered(leases, ANNA, reserved=address) == "10.0.0.101"
    assert "neither in the pools" in refused(leases.bind(BERT, SITE, None, address, HOUR, NOW))
    assert offered(leases, BERT) != address
    leases.release(BERT, address, NOW)
    assert offered(leases, ANNA, reserved=address) == address


def test_a_reservation_takes_a_mere_offer_away() -> None:
    leases = Leases()
    address = offered(leases, BERT)
    leases.withhold([address])
    assert dora(leases, ANNA, reserved=address) == address
    refused(leases.bind(BERT, SITE, None, address, HOUR, NOW))


def test_a_reservation_written_since_takes_an_offer_back() -> None:
    leases = Leases()
    address = offered(leases, BERT)
    leases.withhold([address])
    assert "neither in the pools" in refused(leases.bind(BERT, SITE, None, address, HOUR, NOW))


def test_a_reservation_that_ends_is_free_again() -> None:
    leases = Leases()
    for number in range(4):
        leases.release(a_client(number), dora(leases, a_client(number)), NOW)
    leases.withhold(["10.0.0.102", "10.0.0.200"])
    assert {offered(leases, a_client(10 + number)) for number in range(4)} == {"10.0.0.100", "10.0.0.101", "10.0.0.103", ""}
    leases.withhold([])
    assert offered(leases, EMIL) == "10.0.0.102"


def test_one_card_under_many_client_ids_keeps_its_reservation() -> None:
    leases = Leases()
    stages = [replace(ANNA, key=key) for key in (ANNA.key, "id:0152", "id:ff01")]
    assert {dora(leases, stage, reserved="10.0.0.50") for stage in stages} == {"10.0.0.50"}


def test_a_second_card_gets_its_own_address_while_there_is_one() -> None:
    first, second = (replace(who, kin=(ANNA.mac, BERT.mac)) for who in (ANNA, BERT))
    leases = Leases()
    assert dora(leases, first, reserved="10.0.0.50") == "10.0.0.50"
    assert dora(leases, second, reserved="10.0.0.50") == "10.0.0.100"
    alone = replace(SITE, network=Network(mode="server"))
    leases = Leases()
    dora(leases, first, site=alone, reserved="10.0.0.50")
    assert offered(leases, CARL, alone, "10.0.0.50") == ""
    assert dora(leases, second, site=alone, reserved="10.0.0.50") == "10.0.0.50"


# Offers


def test_an_offer_lasts_a_minute() -> None:
    leases = Leases()
    address = offered(leases, ANNA)
    assert offered(leases, BERT, wanted=address, now=NOW + OFFER_HOLD - 1) != address
    assert offered(leases, CARL, wanted=address, now=NOW + OFFER_HOLD + 1) == address


def test_asking_again_keeps_the_offer_and_prolongs_it_in_time() -> None:
    leases = Leases()
    first = leases.offer(ANNA, SITE, None, "", NOW)
    assert leases.offer(ANNA, SITE, None, "", NOW + 9) is first
    later = leases.offer(ANNA, SITE, None, "", NOW + OFFER_HOLD - 5)
    assert isinstance(first, Lease) and later == replace(first, expires=NOW + 2 * OFFER_HOLD - 5)
    assert leases.of(ANNA.key, SITE.subnet) == later


def test_offers_never_displace_bindings() -> None:
    leases = Leases()
    held = [dora(leases, who) for who in (ANNA, BERT)]
    for number in range(100):
        leases.offer(a_client(100 + number), SITE, None, held[number % 2], NOW + number)
    assert [offered(leases, who, now=NOW + 100) for who in (ANNA, BERT)] == held


def test_a_flood_shortens_offers_but_not_those_to_known_clients() -> None:
    site = a_site(a_pool("10.0.0.100", "10.0.0.199"))
    leases = Leases()
    address = dora(leases, ANNA, site=site)
    leases.release(ANNA, address, NOW)
    ends = [leases.offer(a_client(100 + number), site, None, "", NOW) for number in (*range(60), *range(50, 60))]
    assert {round(lease.expires - NOW) for lease in ends if isinstance(lease, Lease)} == {OFFER_HOLD, HURRIED_HOLD}
    known = leases.offer(ANNA, site, None, "", NOW)
    assert isinstance(known, Lease) and known.expires == NOW + OFFER_HOLD


def test_a_pool_starved_by_offers_is_whole_again_a_minute_later() -> None:
    site = a_site(a_pool("10.0.0.10", "10.0.0.250"))
    leases = Leases()
    for _ in range(2):
        for number in range(300):
            leases.offer(a_client(number), site, None, "", NOW)
    assert offered(leases, a_client(999), site) == ""
    whole = [a_client(1000 + number) for number in range(241)]
    assert len({offered(leases, who, site, now=NOW + 61) or offered(leases, who, site, now=NOW + 61) for who in whole}) == 241


def test_a_flood_of_clients_that_ask_but_once_leaves_half_of_the_pool_to_the_patient() -> None:
    site = a_site(a_pool("10.0.0.10", "10.0.0.249"))
    leases, patient = Leases(), a_client(9999)
    reasons = [leases.offer(a_client(number), site, None, "", NOW) for number in range(500)]
    assert sum(isinstance(lease, Lease) for lease in reasons) == 121
    assert "asks again" in refused(reasons[-1])
    assert offered(leases, patient, site) == ""
    for number in range(500, 600):
        leases.offer(a_client(number), site, None, "", NOW + ASKED_LIFE + 1)
    assert offered(leases, patient, site, now=NOW + ASKED_LIFE + 2), "its second DISCOVER, a while later"
    assert offered(leases, patient, site, reserved="10.0.0.5", now=NOW + 4) == "10.0.0.5"


def test_a_flood_on_one_network_hurries_nobody_on_another() -> None:
    flooded, quiet = a_site(a_pool("10.0.0.10", "10.0.0.189")), a_site(a_pool("10.0.0.200", "10.0.0.249"))
    leases = Leases()
    for number in range(500):
        leases.offer(a_client(number), flooded, None, "", NOW)
    assert offered(leases, a_client(9999), quiet) == "10.0.0.200"


def test_offers_of_reservations_take_nothing_from_strangers() -> None:
    leases = Leases()
    leases.withhold(f"10.0.0.{number}" for number in range(10, 60))
    for number in range(10, 60):
        assert offered(leases, a_client(number), reserved=f"10.0.0.{number}")
    lease = leases.offer(EMIL, SITE, None, "", NOW)
    assert isinstance(lease, Lease) and lease.expires == NOW + OFFER_HOLD


def test_who_asked_once_is_forgotten() -> None:
    site = a_site(a_pool("10.0.0.10", "10.0.0.249"))
    leases = Leases()
    for number in range(500):
        leases.offer(a_client(number), site, None, "", NOW)
    assert not leases._asked_before("somebody", NOW)
    assert leases._asked_before("somebody", NOW + ASKED_LIFE + 1)
    assert not leases._asked_before("somebody", NOW + 4 * ASKED_LIFE)
    assert sum(map(len, leases._askers[:2])) == 1


def test_one_relay_port_cannot_take_all_offers() -> None:
    site = a_site(a_pool("10.0.0.10", "10.0.0.250"))
    leases = Leases()
    behind = [a_client(number, source=b"10.0.0.9/port7") for number in range(OFFERS_PER_SOURCE + 1)]
    assert all(offered(leases, who, site) for who in behind[:-1])
    assert "relay port" in refused(leases.offer(behind[-1], site, None, "", NOW))
    assert offered(leases, replace(behind[-1], source=b"10.0.0.9/port8"), site)
    bound(leases, behind[0], offered(leases, behind[0], site), site)
    assert offered(leases, a_client(777, source=b"10.0.0.9/port7"), site)
    assert offered(leases, a_client(778, source=b"10.0.0.9/port7"), site, reserved="10.0.0.5") == "10.0.0.5"


def test_a_relay_port_that_takes_its_offers_is_forgotten() -> None:
    leases = Leases()
    who = replace(ANNA, source=b"10.0.0.9/port7")
    dora(leases, who)
    assert not leases._offers and not leases._source


def test_rfc2131_3_1_4_an_offer_not_taken_is_the_next_to_be_offered() -> None:
    leases = Leases()
    address = offered(leases, ANNA)
    leases.drop_offer(ANNA.key, SITE.subnet, NOW + 1)
    assert leases.at(address) == Lease(address, ANNA.key, ANNA.mac, LeaseState.EXPIRED, NOW + 1)
    for who in (BERT, CARL, DORA):
        dora(leases, who, NOW + 1)
    assert offered(leases, EMIL, now=NOW + 2) == address


ENDS: dict[str, Callable[[Leases], None]] = {
    "dropped": lambda leases: leases.drop_offer(BERT.key, SITE.subnet, NOW + 4),
    "run out": lambda leases: None,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_an_offer_not_taken_comes_before_what_was_used_earlier(end: Callable[[Leases], None]) -> None:
    leases = Leases()
    held = {who.key: dora(leases, who) for who in (ANNA, BERT, CARL, DORA)}
    leases.release(ANNA, held[ANNA.key], NOW + 1)
    leases.release(BERT, held[BERT.key], NOW + 2)
    address = offered(leases, BERT, now=NOW + 3)
    assert address == held[BERT.key]
    end(leases)
    assert offered(leases, EMIL, now=NOW + OFFER_HOLD + 4) == address


def test_a_binding_is_not_dropped_with_an_offer() -> None:
    leases = Leases()
    address = dora(leases, ANNA)
    leases.drop_offer(ANNA.key, SITE.subnet, NOW)
    leases.drop_offer(BERT.key, SITE.subnet, NOW)
    record = leases.at(address)
    assert record and record.state is LeaseState.BOUND


# Bindings, and their ends


def test_rfc2131_4_4_5_an_expired_lease_is_free_again() -> None:
    leases = Leases()
    for number in range(4):
        dora(leases, a_client(number))
    assert offered(leases, EMIL, now=NOW + HOUR - 1) == ""
    assert offered(leases, EMIL, now=NOW + HOUR + 1) == "10.0.0.100"


def test_a_renewed_lease_lasts_longer() -> None:
    leases = Leases()
    address = dora(leases, ANNA)
    bound(leases, ANNA, address, now=NOW + HOUR / 2)
    assert "bound to" in refused(leases.bind(BERT, SITE, None, address, HOUR, NOW + HOUR + 1))
    assert dora(leases, BERT, NOW + HOUR + 2) != address
    bound(leases, BERT, address, now=NOW + 2 * HOUR)


def test_a_lease_made_shorter_ends_sooner() -> None:
    leases = Leases()
    address = bound(leases, ANNA, "10.0.0.100").address
    leases.bind(ANNA, SITE, None, address, 60, NOW)
    assert offered(leases, BERT, wanted=address, now=NOW + 61) == address
    bound(leases, BERT, address, now=NOW + 62)
    assert offered(leases, CARL, wanted=address, now=NOW + HOUR + 1) != address
    assert offered(leases, DORA, wanted=address, now=NOW + HOUR + 63) == address


def test_nobody_binds_what_another_holds() -> None:
    leases = Leases()
    address = dora(leases, ANNA)
    assert refused(leases.bind(BERT, SITE, None, address, HOUR, NOW)) == f"{address} is bound to {ANNA.mac}"
    address = offered(leases, CARL)
    assert refused(leases.bind(BERT, SITE, None, address, HOUR, NOW)) == f"{address} is offered to {CARL.mac}"
    quarantined = "10.0.0.103"
    leases.mark_in_use(quarantined, CARL.mac, NOW)
    assert refused(leases.bind(BERT, SITE, None, quarantined, HOUR, NOW)) == f"{quarantined} is declined to {CARL.mac}"


def test_rfc2131_4_3_4_release_frees_and_remembers() -> None:
    leases = Leases()
    address = dora(leases, ANNA)
    assert leases.release(ANNA, address, NOW + 5) == Lease(address, ANNA.key, ANNA.mac, LeaseState.EXPIRED, NOW + 5)
    assert offered(leases, ANNA, now=NOW + 6) == address


def test_a_released_lease_does_not_end_twice() -> None:
    leases = Leases()
    address = dora(leases, ANNA)
    released = leases.release(ANNA, address, NOW + 5)
    offered(leases, BERT, now=NOW + HOUR + 1)
    assert leases.at(address) is released
    offer = leases.offer(CARL, SITE, None, address, NOW + HOUR + 1)
    dora(leases, DORA, NOW + HOUR + 2)
    assert leases.at(address) is offer


def test_rfc2131_4_3_4_only_the_holder_releases() -> None:
    leases = Leases()
    address = dora(leases, ANNA)
    for who, which in ((BERT, address), (ANNA, "10.0.0.103")):
        assert refused(leases.release(who, which, NOW)) == f"{which} is not bound to this client"


def test_rfc2131_4_3_3_a_declined_address_is_quarantined_for_a_day() -> None:
    leases = Leases()
    address = dora(leases, ANNA)
    lease = leases.decline(ANNA, address, NOW)
    assert isinstance(lease, Lease) and (lease.state, lease.expires) == (LeaseState.DECLINED, NOW + DECLINE_QUARANTINE)
    assert offered(leases, ANNA, wanted=address, now=NOW + 1) == "10.0.0.101"
    assert offered(leases, BERT, wanted=address, now=NOW + DECLINE_QUARANTINE - 1) != address
    assert offered(leases, CARL, wanted=address, now=NOW + DECLINE_QUARANTINE + 1) == address


def test_rfc2131_4_3_3_declines_empty_no_pool() -> None:
    """What was declined longest ago is the last choice, but not what we saw in use ourselves, nor a reservation."""
    leases = Leases()
    for number in range(10, 14):
        who = a_client(number)
        leases.decline(who, offered(leases, who, now=NOW + number), NOW + number)
    leases.mark_in_use(offered(leases, ANNA, now=NOW + 20), BERT.mac, NOW + 20)
    seen = leases.at("10.0.0.100")
    assert seen and seen.state is LeaseState.DECLINED
    leases.withhold({"10.0.0.101"})
    assert offered(leases, BERT, now=NOW + 21) == "10.0.0.102" and offered(leases, CARL, now=NOW + 21) == "10.0.0.103"
    assert offered(leases, DORA, now=NOW + 21) == ""
    assert bound(leases, BERT, "10.0.0.102", now=NOW + 22).client == BERT.key


def test_rfc2131_4_3_3_only_the_holder_declines() -> None:
    leases = Leases()
    address = offered(leases, ANNA)
    assert refused(leases.decline(BERT, address, NOW)) == f"{address} is neither offered nor bound to this client"
    assert isinstance(leases.decline(ANNA, address, NOW), Lease)
    refused(leases.decline(ANNA, address, NOW))


def test_a_declined_reservation_gives_way_to_the_pool() -> None:
    leases = Leases()
    leases.decline(ANNA, dora(leases, ANNA, reserved="10.0.0.50"), NOW)
    assert dora(leases, ANNA, reserved="10.0.0.50") == "10.0.0.100"


# The store


def test_bindings_survive_a_restart_and_offers_do_not() -> None:
    leases = Leases()
    address = dora(leases, ANNA)
    declined = dora(leases, BERT)
    leases.decline(BERT, declined, NOW)
    leases.release(CARL, dora(leases, CARL), NOW)
    offered(leases, DORA)
    again = Leases(leases.all(), NOW)
    assert {(lease.address, lease.state.value) for lease in again.all()} == {
        (address, "bound"),
        (declined, "declined"),
        ("10.0.0.102", "expired"),
    }
    found = [offered(again, who, wanted=declined) for who in (ANNA, CARL, EMIL, BERT)]
    assert found == [address, "10.0.0.102", "10.0.0.103", declined]


def test_what_the_store_refused_never_was() -> None:
    leases = Leases()
    lease = bound(leases, ANNA, offered(leases, ANNA))
    leases.undo(lease)
    record = leases.at(lease.address)
    assert record and record.state is LeaseState.EXPIRED


def test_a_refused_renewal_leaves_the_lease_that_is_on_disk() -> None:
    leases = Leases()
    first = bound(leases, ANNA, offered(leases, ANNA))
    second = bound(leases, ANNA, first.address, now=NOW + 60)
    for _ in range(2):
        leases.undo(second)
    assert leases.at(first.address) is first
    assert offered(leases, BERT, wanted=first.address, now=NOW + HOUR + 1) == first.address


def test_a_refused_move_leaves_the_client_where_it_was() -> None:
    leases = Leases()
    first = bound(leases, ANNA, "10.0.0.100")
    moved = bound(leases, ANNA, "10.0.0.101")
    leases.undo(moved)
    assert leases.at("10.0.0.100") is first
    assert offered(leases, ANNA) == "10.0.0.100"
    moved = bound(leases, ANNA, "10.0.0.101")
    bound(leases, BERT, "10.0.0.100")
    leases.undo(moved)
    record = leases.at("10.0.0.100")
    assert record and record.client == BERT.key


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "the later one first"])
def test_two_renewals_that_the_store_refused_leave_the_lease_that_is_on_disk(order: tuple[int, int]) -> None:
    leases = Leases()
    kept = bound(leases, ANNA, "10.0.0.100")
    renewals = [bound(leases, ANNA, "10.0.0.100", now=NOW + after) for after in (60, 120)]
    for number in order:
        leases.undo(renewals[number])
    assert leases.at("10.0.0.100") is kept
    assert offered(leases, BERT, wanted="10.0.0.100", now=NOW + HOUR - 1) != "10.0.0.100"
    assert offered(leases, CARL, wanted="10.0.0.100", now=NOW + HOUR + 1) == "10.0.0.100"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "the later one first"])
def test_of_a_binding_and_its_renewal_that_the_store_refused_nothing_is_left(order: tuple[int, int]) -> None:
    leases = Leases()
    made = [bound(leases, ANNA, "10.0.0.100", now=NOW + after) for after in (0, 60)]
    for number in order:
        leases.undo(made[number])
    record = leases.at("10.0.0.100")
    assert record and record.state is LeaseState.EXPIRED


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "the later one first"])
def test_a_refused_move_after_a_refused_renewal_leaves_the_client_where_it_was(order: tuple[int, int]) -> None:
    leases = Leases()
    kept = bound(leases, ANNA, "10.0.0.100")
    made = [bound(leases, ANNA, address, now=NOW + 60) for address in ("10.0.0.100", "10.0.0.101")]
    for number in order:
        leases.undo(made[number])
    assert leases.at("10.0.0.100") is kept
    assert [lease.state.value for lease in leases.all()] == ["bound", "expired"]


def test_a_kept_renewal_outlives_a_refused_one_before_it() -> None:
    leases = Leases()
    bound(leases, ANNA, "10.0.0.100")
    refused, kept, last = (bound(leases, ANNA, "10.0.0.100", now=NOW + after) for after in (60, 120, 180))
    leases.undo(refused)
    leases.undo(last)
    assert leases.at("10.0.0.100") is kept


def test_a_refused_binding_leaves_what_the_client_gave_up_since() -> None:
    leases = Leases()
    bound(leases, ANNA, "10.0.0.100")
    renewal = bound(leases, ANNA, "10.0.0.100", now=NOW + 60)
    declined = leases.decline(ANNA, "10.0.0.100", NOW + 61)
    leases.undo(renewal)
    assert leases.at("10.0.0.100") is declined
    renewal = bound(leases, BERT, "10.0.0.101")
    released = leases.release(BERT, "10.0.0.101", NOW + 61)
    leases.undo(renewal)
    assert leases.at("10.0.0.101") is released


def test_what_a_client_gave_up_stays_given_up_though_the_store_refused_it() -> None:
    leases = Leases()
    for who, give_up in ((ANNA, leases.release), (BERT, leases.decline)):
        given_up = give_up(who, dora(leases, who), NOW)
        assert isinstance(given_up, Lease)
        leases.undo(given_up)
        assert leases.at(given_up.address) is given_up


def test_a_refused_binding_of_who_was_seen_there_leaves_the_quarantine() -> None:
    leases = Leases()
    seen = leases.mark_in_use("10.0.0.102", ANNA.mac, NOW)
    leases.undo(bound(leases, ANNA, "10.0.0.102"))
    assert leases.at("10.0.0.102") is seen
    assert offered(leases, BERT, wanted="10.0.0.102") != "10.0.0.102"
    assert offered(leases, CARL, wanted="10.0.0.102", now=NOW + CONFLICT_QUARANTINE + 1) == "10.0.0.102"


def test_a_binding_replaces_what_its_client_had_until_it_is_kept() -> None:
    leases = Leases()
    first, renewal, moved = (bound(leases, ANNA, address) for address in ("10.0.0.100", "10.0.0.100", "10.0.0.101"))
    assert [leases.replaces(each) for each in (first, renewal, moved)] == [False, True, True]
    leases.kept(renewal)
    assert not leases.replaces(renewal) and leases.replaces(moved)


def test_what_the_store_has_is_not_remembered_for_an_undo() -> None:
    leases = Leases()
    for after in range(3):
        leases.kept(bound(leases, ANNA, "10.0.0.100", now=NOW + after))
    assert not leases._before


# Clocks


def test_a_clock_that_jumps_back_ends_no_lease_early_and_none_never() -> None:
    leases = Leases()
    address = dora(leases, ANNA)
    for number in range(4):
        leases.offer(a_client(10 + number), SITE, None, "", 100.0)
    assert offered(leases, ANNA, now=101.0) == address
    assert offered(leases, a_client(99), now=102.0) == ""
    assert offered(leases, a_client(99), now=100.0 + OFFER_HOLD + 5) != ""
    assert offered(leases, a_client(99), wanted=address, now=NOW + HOUR + 1) != ""


def test_a_pi_without_a_clock_starts_at_the_newest_stored_time() -> None:
    stored = Lease("10.0.0.100", ANNA.key, ANNA.mac, LeaseState.BOUND, NOW + HOUR)
    leases = Leases([stored], newest=NOW)
    lease = leases.bind(ANNA, SITE, None, "10.0.0.100", HOUR, 5.0)
    assert isinstance(lease, Lease) and lease.expires == NOW + HOUR


def test_many_ends_at_once_do_not_stop_the_daemon() -> None:
    site = a_site(a_pool("10.0.0.10", "10.0.3.250"), subnet="10.0.0.0/22")
    leases = Leases()
    for number in range(1000):
        dora(leases, a_client(number), site=site)
    offered(leases, EMIL, site, now=NOW + HOUR + 1)
    still = sum(lease.state is LeaseState.BOUND for lease in leases.all())
    assert 0 < still < 1000
    for number in range(1000):
        who = a_client(5000 + number)
        assert offered(leases, who, site, now=NOW + HOUR + 2) or offered(leases, who, site, now=NOW + HOUR + 2)


def test_offers_long_taken_do_not_hide_free_addresses() -> None:
    site = a_site(a_pool("10.0.0.10", "10.0.15.250"), subnet="10.0.0.0/20")
    leases = Leases()
    number = 0
    while isinstance(lease := leases.offer(a_client(number), site, None, "", NOW), Lease):
        if number < 4000:
            bound(leases, a_client(number), lease.address, site)
        number += 1
    assert offered(leases, a_client(9999), site, now=NOW + 61)


# Probes


def test_the_next_addresses_are_probed_ahead_of_need() -> None:
    leases = Leases()
    dora(leases, ANNA)
    assert leases.to_probe(SITE, 2, NOW) == ["10.0.0.101", "10.0.0.102"]
    leases.mark_free("10.0.0.101", NOW)
    assert leases.to_probe(SITE, 2, NOW) == ["10.0.0.102"]
    assert leases.to_probe(SITE, 2, NOW + PROBE_LIFE) == ["10.0.0.101", "10.0.0.102"]


def test_addresses_that_came_back_are_probed_too() -> None:
    leases = Leases()
    held = [dora(leases, who) for who in (ANNA, BERT, CARL, DORA)]
    leases.release(CARL, held[2], NOW)
    assert leases.to_probe(SITE, 3, NOW) == [held[2]]


def test_a_fresh_address_is_one_nobody_asked_about() -> None:
    leases = Leases()
    address = offered(leases, ANNA)
    assert leases.fresh(address, NOW)
    leases.mark_free(address, NOW)
    assert not leases.fresh(address, NOW + 1)
    bound(leases, ANNA, address)
    assert not leases.fresh(address, NOW + PROBE_LIFE)
    leases.release(ANNA, address, NOW + PROBE_LIFE)
    assert leases.fresh(address, NOW + PROBE_LIFE)


def test_an_address_in_use_is_quarantined_even_when_offered() -> None:
    leases = Leases()
    address = offered(leases, ANNA)
    lease = leases.mark_in_use(address, EMIL.mac, NOW)
    assert lease == Lease(address, "", EMIL.mac, LeaseState.DECLINED, NOW + CONFLICT_QUARANTINE)
    assert "declined" in refused(leases.bind(ANNA, SITE, None, address, HOUR, NOW))
    assert offered(leases, ANNA, wanted=address) != address
    assert leases.mark_in_use(address, EMIL.mac, NOW) is None
    assert offered(leases, CARL, wanted=address, now=NOW + CONFLICT_QUARANTINE + 1) == address


def test_whoever_is_seen_there_may_have_it() -> None:
    leases = Leases()
    leases.mark_in_use("10.0.0.102", ANNA.mac, NOW)
    assert offered(leases, BERT, wanted="10.0.0.102") == "10.0.0.100"
    assert dora(leases, ANNA) == "10.0.0.101"
    assert offered(Leases(leases.all()), ANNA, wanted="10.0.0.102") == "10.0.0.101"
    again = Leases([lease for lease in leases.all() if lease.address == "10.0.0.102"])
    assert offered(again, ANNA, wanted="10.0.0.102") == "10.0.0.102"


def test_its_holder_answering_is_no_conflict() -> None:
    leases = Leases()
    address = offered(leases, ANNA)
    assert leases.mark_in_use(address, ANNA.mac, NOW) is None
    bound(leases, ANNA, address)
    assert leases.mark_in_use(address, EMIL.mac, NOW) is None


def test_inside() -> None:
    assert inside("10.0.0.255", IPv4Network("10.0.0.0/24"))
    assert not inside("10.0.1.0", IPv4Network("10.0.0.0/24"))


# Everything at once


class Storm(RuleBasedStateMachine):
    """Clients that do anything in any order, on a host whose disk, clock and settings change.

    What a client was acknowledged is nobody else's until its end; no address is two clients', none is lost, nothing raises.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.newest = NOW
        self.leases = Leases()
        self.site = self.SITES[0]
        self.withheld: set[str] = set()
        self.waiting: list[Lease] = []  # for the store
        self.refused: list[Lease] = []
        self.disk: dict[str, Lease] = {}
        self.acked: dict[str, Lease] = {}  # what clients rely on
        self.told: dict[str, str] = {}  # by client, what it was offered last

    POOLS = (a_pool("10.0.0.100", "10.0.0.102"), a_pool("10.0.0.104", "10.0.0.105"))
    SITES = (
        a_site(*POOLS),
        a_site(*POOLS, routers=("10.0.0.102",)),
        a_site(*POOLS, subnet="10.0.0.96/29"),
        a_site(a_pool("10.0.0.101", "10.0.0.104")),
    )
    whos = st.integers(0, 4).map(a_client) | st.just(replace(a_client(1), key="id:1"))
    addresses = st.integers(100, 105).map("10.0.0.{}".format)
    reservations = st.none() | st.sampled_from(["10.0.0.50", "10.0.0.101"])

    def may_have(self, who: Holder, address: str, reserved: str | None) -> bool:
        """May it be given this address, as far as others were acknowledged it?"""
        held = self.acked.get(address)
        mine = held is None or held.client == who.key or (address == reserved and held.mac == who.mac)
        return mine or (held is not None and held.expires <= self.leases._time)

    @rule(who=whos, wanted=addresses, reserved=reservations)
    def discover(self, who: Holder, wanted: str, reserved: str | None) -> None:
        lease = self.leases.offer(who, self.site, reserved, wanted, self.now)
        if isinstance(lease, Lease):
            self.told[who.key] = lease.address
            assert self.may_have(who, lease.address, reserved)
            assert inside(lease.address, self.site.subnet) and lease.address not in self.site.network.routers
            assert lease.address == reserved or lease.address not in self.withheld
            if lease.state is LeaseState.OFFERED and lease.address == reserved:
                self.acked.pop(reserved, None)  # its own card moves on

    @rule(who=whos, address=addresses, seconds=st.integers(1, 300), reserved=reservations)
    def request(self, who: Holder, address: str, seconds: int, reserved: str | None) -> None:
        lease = self.leases.bind(who, self.site, reserved, address, seconds, self.now)
        if isinstance(lease, Lease):
            assert self.may_have(who, address, reserved)
            assert address == reserved or address not in self.withheld
            self.waiting.append(lease)
            for other, held in list(self.acked.items()):  # who asks for an address uses no other, on that network
                if (held.client == who.key and inside(other, self.site.subnet) and other != address) or (
                    other == address and held.client != who.key
                ):
                    del self.acked[other]

    @rule(who=whos, seconds=st.integers(1, 300))
    def take(self, who: Holder, seconds: int) -> None:
        self.request(who, self.told.get(who.key, "10.0.0.100"), seconds, None)

    @rule(number=st.integers(0, 5), seconds=st.lists(st.integers(1, 300), min_size=1, max_size=3))
    def renew(self, number: int, seconds: list[int]) -> None:
        if held := [lease for lease in self.leases.all() if lease.state is LeaseState.BOUND]:
            lease = held[number % len(held)]
            for each in seconds:
                self.request(Holder(lease.client, lease.mac), lease.address, each, None)

    @rule()
    def keep(self) -> None:
        """The store writes in order."""
        for lease in self.waiting:
            self.leases.kept(lease)
            self.disk[lease.address] = lease
            self.newest = max(self.newest, self.now)
            if self.leases.at(lease.address) in (lease, *self.waiting):
                self.acked[lease.address] = lease
        self.waiting.clear()

    @rule(order=st.randoms(use_true_random=False))
    def refuse(self, order: Random) -> None:
        order.shuffle(self.waiting)
        for lease in self.waiting:
            self.leases.undo(lease)
        self.refused += self.waiting
        self.waiting.clear()

    def given_up(self, lease: Lease | str | None) -> None:
        if isinstance(lease, Lease):
            self.acked.pop(lease.address, None)
            self.disk[lease.address] = lease
            self.waiting = [other for other in self.waiting if other.address != lease.address]

    @rule(who=whos, address=addresses)
    def release(self, who: Holder, address: str) -> None:
        self.given_up(self.leases.release(who, address, self.now))

    @rule(who=whos, address=addresses)
    def decline(self, who: Holder, address: str) -> None:
        self.given_up(self.leases.decline(who, address, self.now))

    @rule(address=addresses, who=whos)
    def conflict(self, address: str, who: Holder) -> None:
        self.leases.mark_in_use(address, who.mac, self.now)

    @rule(seconds=st.integers(1, 200) | st.sampled_from([-NOW, -86400.0, -30.0, 86400.0]))
    def wait(self, seconds: float) -> None:
        """The clock may be set, too."""
        self.now += seconds

    @rule(withheld=st.sets(st.sampled_from(["10.0.0.50", "10.0.0.101", "10.0.0.104"])))
    def reserve(self, withheld: set[str]) -> None:
        self.leases.withhold(withheld)
        self.withheld = withheld

    @rule(which=st.integers(0, 3))
    def reload(self, which: int) -> None:
        site = self.SITES[which]
        self.site = replace(site, network=replace(site.network))

    @rule()
    def restart(self) -> None:
        self.leases = Leases(self.disk.values(), self.newest)
        self.leases.withhold(self.withheld)
        self.waiting.clear()

    @rule(count=st.integers(1, 9))
    def look_ahead(self, count: int) -> None:
        self.leases.to_probe(self.site, count, self.now)

    def free(self) -> set[str]:
        taken = {lease.address for lease in self.leases.all() if lease.state is not LeaseState.EXPIRED}
        pools = self.leases._pools(self.site)
        return {f"10.0.0.{last}" for last in range(98, 108) if f"10.0.0.{last}" in pools} - taken - self.withheld

    @invariant()
    def nothing_is_free_that_is_not(self) -> None:
        pools = self.leases._pools(self.site)
        assert {*pools.unused, *pools.freed} <= self.free()
        assert not {*pools.unused} & {*pools.freed}

    @invariant()
    def what_was_declined_is_known(self) -> None:
        declined = {lease.address for lease in self.leases.all() if lease.state is LeaseState.DECLINED and lease.client}
        pools = self.leases._pools(self.site)
        assert {*pools.declined} == {address for address in declined if address in pools}

    @invariant()
    def what_is_offered_is_known(self) -> None:
        offers = {lease.address for lease in self.leases.all() if lease.state is LeaseState.OFFERED}
        assert self.leases._pools(self.site).offered <= offers - self.withheld

    @invariant()
    def what_was_acknowledged_holds_and_what_was_refused_does_not(self) -> None:
        for address, held in self.acked.items():
            record = self.leases.at(address)
            assert held.expires <= self.leases._time or (
                record and (record.client, record.state) == (held.client, LeaseState.BOUND)
            )
        assert not any(lease is refused for lease in self.leases.all() for refused in self.refused)

    def teardown(self) -> None:
        """Nothing is lost."""
        assert set(self.leases.to_probe(self.site, 100, self.now)) == self.free()

    @invariant()
    def every_record_is_found_by_its_client(self) -> None:
        for lease in self.leases.all():
            assert lease.client == "" or lease.address in self.leases._held[lease.client]
        assert {address for held in self.leases._held.values() for address in held} <= {
            lease.address for lease in self.leases.all()
        }


Storm.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestStorm = pytest.mark.slow(Storm.TestCase)
