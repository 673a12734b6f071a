"""Machines described through the API: checked with all others, kept over a restart, never overwritten unseen."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pixieboot import adopt, config
from pixieboot.errors import Faults
from pixieboot.model import Mac
from pixieboot.registry import Registry
from pixieboot.registry.sqlite import FRESH, StateStore
from pixieboot.serve.writing import merged
from tests.test_api import BEARER, JSON, Served, served

__all__ = ["served"]
WEB9 = "/api/v1/machines/web9"
MAC9 = "02:00:00:00:00:99"
LARGE = {
    "macs": ["02-00-00-00-00-99", "0200.0000.0098"], "uuid": "4c4c4544-0042-3510-8052-b4c04f4e3732", "serial": "0123",
    "address": "10.0.0.9", "hostname": "web9", "profile": "linux", "boot": "once", "local_boot": "sanboot",
    "vars": {"no": "yes", "n": 1.5, "deep": [{"a": None}], "\u202e<<": "52:54", "": ""}, "loader": {"x64-efi": "shimx64.efi"},
    "options": {"ntp-servers": ["10.0.0.1"], "224": "0x0102"}, "reply_delay": "2s", "reply_style": "binl",
}  # fmt: skip


def test_described_read_changed_and_forgotten(served: Served) -> None:
    made = served.ask(WEB9, JSON, "PUT", {"macs": [MAC9], "profile": "linux"})
    assert made.status == 201 and made.json()["adopted"] and made.json()["next"]["profile"] == "linux"
    assert served.context.registry.current.machines["web9"].macs == (MAC9,), "in force on return"
    assert not served.context.registry.changed(), "and no news for those who follow the files"
    read = served.ask(WEB9)
    assert read.headers["etag"] == made.headers["etag"] and read.json()["description"]["profile"] == "linux"
    changed = served.ask(WEB9, JSON, "PATCH", {"profile": None, "vars": {"role": "db"}})
    assert changed.status == 200 and changed.json()["description"]["vars"] == {"role": "db"}
    assert changed.json()["description"]["profile"] is None and changed.headers["etag"] != read.headers["etag"]
    assert [event["kind"] for event in served.ask("/api/v1/events?machine=web9").json()["events"]] == ["described", "described"]
    assert served.ask(WEB9, BEARER, "DELETE").status == 204
    assert served.ask(WEB9).status == 404 and served.ask(WEB9, BEARER, "DELETE").status == 404


def test_every_key_comes_back_as_it_was_given(served: Served) -> None:
    made = served.ask(WEB9, JSON, "PUT", LARGE)
    assert made.status == 201, made.body
    told = made.json()["description"]
    assert told["macs"] == [MAC9, "02:00:00:00:00:98"] and told["options"] == {"42": "0x0a000001", "224": "0x0102"}
    assert {key: told[key] for key in LARGE.keys() - {"macs", "options"}} == {
        key: value for key, value in LARGE.items() if key not in ("macs", "options")
    }
    again = served.ask(WEB9, {**JSON, "if-match": made.headers["etag"]}, "PUT", told)
    assert again.status == 200 and again.json()["description"] == told and again.headers["etag"] == made.headers["etag"]


def test_it_outlives_the_daemon(served: Served) -> None:
    served.ask(WEB9, JSON, "PUT", LARGE)
    settings = served.context.settings
    again = Registry(settings.registry, settings.adopted)
    again.load()
    assert again.current.machines["web9"] == served.context.registry.current.machines["web9"]
    assert (settings.adopted / "web9.yaml").stat().st_mode & 0o007 == 0, "vars may hold secrets"


CONDITIONS = {
    "replaced unseen": ("PUT", {}, 428),
    "replaced by one who saw an older version": ("PUT", {"if-match": '"old"'}, 412),
    "made, though it is there": ("PUT", {"if-none-match": "*"}, 412),
    "replaced, whatever it is": ("PUT", {"if-match": "*"}, 200),
    "changed by one who saw an older version": ("PATCH", {"if-match": '"old"'}, 412),
    "forgotten by one who saw an older version": ("DELETE", {"if-match": '"old", W/"older"'}, 412),
    "forgotten, whatever it is": ("DELETE", {"if-match": "*"}, 204),
}


@pytest.mark.parametrize("method, headers, status", CONDITIONS.values(), ids=CONDITIONS)
def test_conditions(served: Served, method: str, headers: dict[str, str], status: int) -> None:
    assert served.ask(WEB9, {**JSON, "if-match": "*"}, "PUT", {"macs": [MAC9]}).status == 412, "there is none yet"
    assert served.ask(WEB9, {**JSON, "if-none-match": "*"}, "PUT", {"macs": [MAC9]}).status == 201
    assert served.ask(WEB9, {**JSON, **headers}, method, {"macs": [MAC9], "boot": "local"}).status == status
    if status >= 400:
        assert served.context.registry.current.machines["web9"].boot == "always"


def test_the_etag_of_a_reader_lets_it_write(served: Served) -> None:
    served.ask(WEB9, JSON, "PUT", {"macs": [MAC9]})
    tag = served.ask(WEB9).headers["etag"]
    assert served.ask(WEB9, {**JSON, "if-match": tag}, "PATCH", {"boot": "local"}).status == 200
    assert served.ask(WEB9, {**JSON, "if-match": tag}, "PATCH", {"boot": "once"}).status == 412, "only once"


WRONG: dict[str, tuple[int, Any, str]] = {
    "a key that is not there": (400, {"macs": [MAC9], "colour": "red"}, "colour"),
    "a MAC that is none": (400, {"macs": ["nonsense"]}, "macs.0"),
    "a value of another kind": (400, {"macs": [MAC9], "vars": []}, "vars"),
    "a number that is none": (409, {"macs": [MAC9], "vars": {"a": float("nan")}}, "vars: a number is not finite"),
    "a number that is endless": (409, {"macs": [MAC9], "vars": {"a": {"b": [float("-inf")]}}}, "vars: a number is not finite"),
    "a number of 4,000 digits": (409, {"macs": [MAC9], "vars": {"a": 10**4000}}, "vars: a number is not finite"),
    "a number that no file would keep": (409, {"macs": [MAC9], "vars": {"a": 1e-7}}, "vars: a number is not finite"),
    "no object": (400, [], "body"),
    "no identity": (409, {"profile": "linux"}, "neither a MAC address"),
    "a MAC that a file has": (409, {"macs": ["52:54:00:12:34:56"]}, "has the MAC address 52:54:00:12:34:56 of machine web1"),
    "an address that a file has": (409, {"macs": [MAC9], "address": "10.0.0.50"}, "has the address 10.0.0.50 of machine web1"),
    "a profile that is not there": (409, {"macs": [MAC9], "profile": "nope"}, "profile 'nope' does not exist"),
    "a UUID that many boards share": (409, {"uuid": "ffffffff-ffff-ffff-ffff-ffffffffffff"}, "no UUID"),
    "a loader from elsewhere": (409, {"macs": [MAC9], "loader": "../x"}, "below its root"),
    "an option that is none": (409, {"macs": [MAC9], "options": {"colour": "red"}}, "colour"),
}  # fmt: skip


@pytest.mark.parametrize("status, body, said", WRONG.values(), ids=WRONG)
def test_bad_input_changes_nothing(served: Served, status: int, body: Any, said: str) -> None:
    before = served.context.registry.current
    answer = served.ask(WEB9, JSON, "PUT", body)
    assert answer.status == status and said in answer.json()["error"]["what"], answer.body
    assert served.context.registry.current is before and not served.context.settings.adopted.exists()
    served.ask(WEB9, JSON, "PUT", {"macs": [MAC9]})
    if isinstance(body, dict):
        assert served.ask(WEB9, JSON, "PATCH", {**body, "macs": body.get("macs")}).status == status
        assert served.ask(WEB9).json()["description"]["macs"] == [MAC9]


@pytest.mark.parametrize("name", ["-x", "a b", ".hidden", "x" * 129])
def test_names_that_cannot_be(served: Served, name: str) -> None:
    assert served.ask(f"/api/v1/machines/{name}", JSON, "PUT", {"macs": [MAC9]}).status == 400


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("name", ["web1", "52-54-00-12-34-56"])
def test_machines_in_files_are_changed_in_files(served: Served, method: str, name: str) -> None:
    answer = served.ask(f"/api/v1/machines/{name}", JSON, method, {"macs": [MAC9]})
    assert answer.status == 409 and answer.json()["error"]["where"].endswith("machines.yaml:1")
    assert "described in a file" in answer.json()["error"]["what"]


def test_only_described_machines_are_changed(served: Served) -> None:
    assert served.ask("/api/v1/machines/nobody", JSON, "PATCH", {}).status == 404
    served.store.see(Mac(MAC9), None, None, "", 1.0)
    assert served.ask(f"/api/v1/machines/{MAC9}", JSON, "DELETE").status == 409
    assert served.ask(WEB9, {**JSON, "content-type": "application/merge-patch+json"}, "PUT", {}).status == 415


def test_an_identity_in_a_file_and_in_the_api_is_a_fault_that_check_names(served: Served, tmp_path: Path) -> None:
    served.ask(WEB9, JSON, "PUT", {"macs": [MAC9]})
    machines = tmp_path / "reg" / "machines.yaml"
    machines.write_text(f"{machines.read_text()}web10: {{mac: '{MAC9}'}}\nweb9: {{serial: x}}\n")
    (tmp_path / "pixieboot.yaml").write_text("registry: reg\nstate: sqlite:state.db\n")
    with pytest.raises(Faults) as found:
        config.check(tmp_path / "pixieboot.yaml")
    said = str(found.value)
    assert f"adopted/web9.yaml:1: there is a machine web9 already at {machines}:6" in said
    assert f"machine web9 has the MAC address {MAC9} of machine web10 ({machines}:5)" in said
    # Nor does the API write into a registry that does not load; it names what is wrong there.
    answer = served.ask("/api/v1/machines/web11", JSON, "PUT", {"macs": ["02:00:00:00:00:11"]})
    assert answer.status == 409 and "web9.yaml:1" in answer.json()["error"]["where"]


def test_the_registry_of_another_program_is_left_alone(served: Served, tmp_path: Path) -> None:
    matchbox = tmp_path / "matchbox"
    for kind in ("groups", "profiles"):
        (matchbox / kind).mkdir(parents=True)
    (matchbox / "groups" / "default.json").write_text('{"id": "default", "profile": "x"}')
    (matchbox / "profiles" / "x.json").write_text('{"id": "x", "boot": {"kernel": "k"}}')
    served.context.registry = Registry(str(matchbox), served.context.settings.adopted)
    served.context.registry.load()
    answer = served.ask(WEB9, JSON, "PUT", {"macs": [MAC9]})
    assert answer.status == 409 and "another program" in answer.json()["error"]["what"]


@pytest.fixture
def disk() -> Iterator[Path]:
    """A disk of one megabyte, of which `served` keeps its state."""
    if os.geteuid():
        pytest.skip("only root mounts a disk")
    place = Path(tempfile.mkdtemp(prefix="pxb-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "pxb-disk", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)
    place.rmdir()


def test_a_full_disk_is_told_and_costs_nothing(disk: Path) -> None:
    served = Served(disk)
    order = f"{WEB9}/boot"
    stranger = "02:00:00:00:00:88"
    assert served.ask(WEB9, JSON, "PUT", {"macs": [MAC9], "profile": "linux"}).status == 201
    assert served.ask(f"/api/v1/machines/{stranger}/boot", JSON, "POST", {"boot": "once"}).status == 200
    before = served.ask(WEB9).json()["description"]
    with suppress(OSError), (disk / "all").open("wb", buffering=0) as room:
        while True:
            room.write(bytes(4096))
    orders = ({"boot": boot} for boot in ("local", "once") * 50)  # until no page of the file is free any more
    refused = next(answer for each in orders if (answer := served.ask(order, JSON, "POST", each)).status != 200)
    answers = [
        served.ask(WEB9, JSON, "PATCH", {"hostname": "new"}),
        served.ask("/api/v1/machines/web8", JSON, "PUT", {"macs": [MAC9[:-1] + "8"]}),
        refused,
        served.ask("/api/v1/machines/heard", JSON, "PUT", {"macs": [stranger]}),
    ]  # fmt: skip
    assert [answer.status for answer in answers] == [507] * 4
    for answer in answers:
        error = answer.json()["error"]
        assert re.search("No space left|is full", error["what"]) and error["mend"].startswith("Make room on that disk")
    assert served.ask(WEB9).json()["description"] == before
    assert served.store.state("heard") == FRESH and served.store.state(Mac(stranger)).boot == "once", "it is nobody's still"
    assert [path.name for path in served.context.settings.adopted.iterdir()] == ["web9.yaml"], "and nothing lies about"
    (disk / "all").unlink()
    assert served.ask(WEB9, JSON, "PATCH", {"hostname": "new"}).status == 200
    assert served.ask("/api/v1/machines/heard", JSON, "PUT", {"macs": [stranger]}).status == 201
    assert served.ask("/api/v1/machines/heard").json()["order"]["boot"] == "once"
    served.close()


def test_a_disk_that_became_read_only_is_told_and_costs_nothing(disk: Path) -> None:
    """As after an error of the disk: what is open stays open, and takes nothing."""
    served = Served(disk)
    served.ask(WEB9, JSON, "PUT", {"macs": [MAC9]})
    adopted = served.context.settings.adopted
    subprocess.run(["mount", "--bind", "-o", "ro", adopted, adopted], check=True)
    try:
        for method in ("PATCH", "DELETE"):
            answer = served.ask(WEB9, JSON, method, {"hostname": "new"})
            assert answer.status == 507 and "Read-only file system" in answer.json()["error"]["what"]
        assert served.ask(WEB9).json()["description"]["hostname"] is None
    finally:
        subprocess.run(["umount", adopted], check=True)
    served.store._database.execute("PRAGMA query_only=1")
    answer = served.ask(f"{WEB9}/boot", JSON, "POST", {"boot": "local"})
    assert (
        answer.status == 507
        and "readonly" in answer.json()["error"]["what"]
        and "until the daemon ends" in answer.json()["error"]["mend"]
    )
    answer = served.ask(WEB9, BEARER, "DELETE")
    assert answer.status == 507 and "it is forgotten, but" in answer.json()["error"]["mend"] and served.ask(WEB9).status == 404
    served.store._database.execute("PRAGMA query_only=0")
    served.ask(f"/api/v1/machines/{MAC9}/boot", JSON, "POST", {"boot": "once"})
    store = on_disk(served, adopted)
    assert store.state("web9") == FRESH and store.state(MAC9).boot == "once", "what could not be written is written with the next"
    store.close()
    served.close()


def test_orders_follow_a_stranger_that_is_described(served: Served) -> None:
    served.ask(f"/api/v1/machines/{MAC9}/boot", JSON, "POST", {"profile": "linux", "boot": "once"})
    served.ask(WEB9, JSON, "PUT", {"macs": [MAC9]})
    assert served.ask(WEB9).json()["order"]["profile"] == "linux"
    served.ask(WEB9, BEARER, "DELETE")
    served.ask(WEB9, JSON, "PUT", {"macs": ["02:00:00:00:00:55"]})
    assert served.ask(WEB9).json()["order"]["profile"] is None, "another machine of the same name is not meant"


def on_disk(served: Served, directory: Path) -> StateStore:
    """The state store as it would be after a power cut just now."""
    for path in served.store.path.parent.glob("state.db*"):
        shutil.copy(path, directory / f"cut{path.name}")
    return StateStore.open(directory / "cutstate.db")


def test_orders_are_on_disk_before_a_description_and_its_end_are_answered(served: Served, tmp_path: Path) -> None:
    served.ask(f"/api/v1/machines/{MAC9}/boot", JSON, "POST", {"boot": "once"})
    assert served.ask(WEB9, JSON, "PUT", {"macs": [MAC9], "profile": "nope"}).status == 409
    assert served.store.state("web9") == FRESH and served.store.state(MAC9).boot == "once", "it is nobody's still"
    assert served.ask(WEB9, JSON, "PUT", {"macs": [MAC9]}).status == 201
    store = on_disk(served, tmp_path)
    assert store.state("web9").boot == "once"
    store.close()
    assert served.store.state(MAC9) == FRESH
    served.ask(WEB9, BEARER, "DELETE")
    store = on_disk(served, tmp_path)
    assert store.state("web9") == FRESH
    store.close()


def test_a_file_that_somebody_else_changed_just_now_is_not_overwritten(served: Served) -> None:
    """Before the daemon has read it again: `machines set` writes there too."""
    served.ask(WEB9, JSON, "PUT", {"macs": [MAC9]})
    tag, path = served.ask(WEB9).headers["etag"], served.context.settings.adopted / "web9.yaml"
    adopt.change(Path(served.context.settings.registry), path.parent, "web9", ["hostname=new"])
    written = path.read_text()
    for method, headers in (("PUT", {"if-match": tag}), ("PATCH", {"if-match": tag}), ("PATCH", {}), ("DELETE", {})):
        answer = served.ask(WEB9, {**JSON, **headers}, method, {"macs": [MAC9]})
        assert answer.status == 409 and "changed this file just now" in answer.json()["error"]["what"]
        assert path.read_text() == written
    served.context.registry.load()
    assert served.ask(WEB9, {**JSON, "if-match": tag}, "PUT", {"macs": [MAC9]}).status == 412
    assert served.ask(WEB9, JSON, "PATCH", {"boot": "local"}).json()["description"]["hostname"] == "new"


def test_many_writers_at_once_lose_nothing(served: Served) -> None:
    """Each adds a key of its own, some with the version that they read; who is refused begins anew."""
    from tests.test_api import call

    served.ask(WEB9, JSON, "PUT", {"macs": [MAC9]})
    refused: list[int] = []

    async def write(number: int) -> None:
        while True:
            tag = (await call(served.tcp, "GET", WEB9, BEARER)).headers["etag"]
            headers, body = {**JSON, "if-match": tag} if number % 2 else JSON, {"vars": {f"key{number}": number}}
            answer = await call(served.tcp, "PATCH", WEB9, headers, json.dumps(body).encode())
            if answer.status == 200:
                return
            refused.append(answer.status)

    async def all_of_them() -> None:
        await asyncio.gather(*map(write, range(8)))

    asyncio.run(all_of_them())
    assert served.ask(WEB9).json()["description"]["vars"] == {f"key{number}": number for number in range(8)}
    assert set(refused) == {412}


def test_one_of_many_who_make_and_who_forget(served: Served) -> None:
    from tests.test_api import call

    async def at_once(method: str, headers: dict[str, str]) -> list[int]:
        asked = [call(served.tcp, method, WEB9, headers, b'{"macs": ["%s"]}' % MAC9.encode()) for _ in range(4)]
        return sorted(answer.status for answer in await asyncio.gather(*asked))

    async def one_after_the_other() -> None:
        assert await at_once("PUT", {**JSON, "if-none-match": "*"}) == [201, 412, 412, 412]
        assert await at_once("PUT", JSON) == [428] * 4
        assert await at_once("DELETE", JSON) == [204, 404, 404, 404]

    asyncio.run(one_after_the_other())
    assert list(served.context.settings.adopted.iterdir()) == []


def test_writers_take_turns(served: Served) -> None:
    """Two who saw the same version: one of them is told."""
    from tests.test_api import call

    served.ask(WEB9, JSON, "PUT", {"macs": [MAC9]})
    headers = {**JSON, "if-match": served.ask(WEB9).headers["etag"]}

    async def both() -> list[int]:
        one, two = (call(served.tcp, "PATCH", WEB9, headers, body) for body in (b'{"boot": "once"}', b'{"boot": "local"}'))
        return sorted(answer.status for answer in await asyncio.gather(one, two))

    assert asyncio.run(both()) == [200, 412]


def test_an_order_is_new_whatever_was_done(served: Served) -> None:
    served.store.set_state("web1", replace(served.store.state("web1"), done=5.0))
    served.ask("/api/v1/machines/web1/boot", JSON, "POST", {"boot": "once"})
    assert served.store.state("web1").done == 0.0


def test_merge_patches() -> None:
    """RFC 7396, its own examples."""
    assert merged({"a": "b", "c": {"d": "e", "f": "g"}}, {"a": "z", "c": {"f": None}}) == {"a": "z", "c": {"d": "e"}}
    assert merged({"a": ["b"]}, {"a": {"bb": {"ccc": None}}}) == {"a": {"bb": {}}}
    assert merged("x", {"a": 1}) == {"a": 1}
