"""Machines described from the shell: a file each, checked, and the operator's other lines left alone."""

from pathlib import Path

import pytest

from pixieboot import adopt
from pixieboot.errors import Faults, OperatorError
from pixieboot.registry import Registry

MACHINES = "web1: {mac: '52:54:00:12:34:56', profile: menu}\n"

TEXT = """# bought in May
mac: 52:54:00:12:34:57

# by the rack
vars:
  rack: 7  # top
  role: db
profile: menu
# end
"""


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    (tmp_path / "machines.yaml").write_text(MACHINES)
    return tmp_path


def add(registry: Path, name: str, settings: list[str]) -> str:
    return adopt.add(registry, registry / "state" / "adopted", name, settings)


def change(registry: Path, name: str, settings: list[str]) -> str:
    return adopt.change(registry, registry / "state" / "adopted", name, settings)


def remove(registry: Path, name: str) -> str:
    return adopt.remove(registry, registry / "state" / "adopted", name)


def loaded(registry: Path) -> Registry:
    found = Registry(str(registry))
    found.load()
    return found


def test_a_new_machine_has_a_file_of_its_own(registry: Path) -> None:
    said = add(registry, "web2", ["mac=52-54-00-12-34-57", "boot=once", "vars.role=worker", "vars.count=3", "vars.on=true"])
    assert said == f"{registry}/machines/web2.yaml describes web2 now."
    machine = loaded(registry).current.machines["web2"]
    assert machine.macs == ("52:54:00:12:34:57",) and machine.boot == "once"
    assert machine.vars == {"role": "worker", "count": 3, "on": True}


def test_several_macs(registry: Path) -> None:
    add(registry, "web2", ["macs=52:54:00:12:34:57, 52:54:00:12:34:58"])
    assert len(loaded(registry).current.machines["web2"].macs) == 2


def test_a_change_leaves_other_lines_and_comments_alone(registry: Path) -> None:
    path = registry / "machines" / "web2.yaml"
    path.parent.mkdir()
    path.write_text(
        "# bought in May\nmac: 52:54:00:12:34:57\n\n# by the rack\nvars:\n  rack: 7  # top\n  role: db\nprofile: menu\n# end\n"
    )
    change(registry, "web2", ["profile=local", "hostname=web2", "vars.role="])
    assert path.read_text() == (
        "# bought in May\nmac: 52:54:00:12:34:57\n# by the rack\nvars: {rack: 7}\nprofile: local\n# end\nhostname: web2\n"
    )
    change(registry, "52:54:00:12:34:57", ["vars.rack=", "hostname="])
    assert "vars" not in path.read_text() and "hostname" not in path.read_text()


def test_a_machine_among_others_is_changed_with_an_editor(registry: Path) -> None:
    with pytest.raises(OperatorError, match=f"^{registry}/machines.yaml:1: machine web1 stands among others"):
        change(registry, "web1", ["profile=local"])
    with pytest.raises(OperatorError, match=f"^{registry}/machines.yaml:1: machine web1 stands among others"):
        remove(registry, "web1")
    assert (registry / "machines.yaml").read_text() == MACHINES


FAULTS = {
    "a MAC that another has": ["mac=52:54:00:12:34:56"],
    "a profile that is not there": ["mac=52:54:00:12:34:57", "profile=nope"],
    "no MAC at all": ["mac=nonsense"],
}


@pytest.mark.parametrize("settings", FAULTS.values(), ids=FAULTS)
def test_what_does_not_load_is_never_put_in_place(registry: Path, settings: list[str]) -> None:
    """Not for a moment: the daemon would see it, and say so."""
    with pytest.raises(Faults, match=r"web2\.yaml:[12]"):
        add(registry, "web2", settings)
    assert not (registry / "machines").exists()
    add(registry, "web2", ["mac=52:54:00:12:34:57"])
    path = registry / "machines" / "web2.yaml"
    before, placed = path.read_text(), (path.stat().st_ino, path.parent.stat().st_mtime_ns)
    with pytest.raises(Faults, match=r"web2\.yaml:[12]"):
        change(registry, "web2", settings)
    assert path.read_text() == before and (path.stat().st_ino, path.parent.stat().st_mtime_ns) == placed
    assert list(path.parent.iterdir()) == [path]


def test_wrong_words(registry: Path) -> None:
    for setting in ("profile", "colour=red", "vars=x", "mac.x=1"):
        with pytest.raises(OperatorError, match="no KEY=VALUE"):
            add(registry, "web2", [setting])
    for name in ("../web2", "", "a/b", "-x"):
        with pytest.raises(OperatorError, match="no name"):
            add(registry, name, ["mac=52:54:00:12:34:57"])
    with pytest.raises(OperatorError, match="described already"):
        add(registry, "web1", ["mac=52:54:00:12:34:57"])
    with pytest.raises(OperatorError, match="no machine web9"):
        change(registry, "web9", ["profile=menu"])


def test_remove(registry: Path) -> None:
    add(registry, "web2", ["mac=52:54:00:12:34:57"])
    assert "is gone" in remove(registry, "web2")
    assert "web2" not in loaded(registry).current.machines


def test_the_daemon_can_read_it(registry: Path) -> None:
    (registry / "machines").mkdir(mode=0o755)
    add(registry, "web2", ["mac=52:54:00:12:34:57"])
    assert (registry / "machines" / "web2.yaml").stat().st_mode & 0o777 == 0o644
    (registry / "machines").chmod(0o750)
    change(registry, "web2", ["boot=local"])
    assert (registry / "machines" / "web2.yaml").stat().st_mode & 0o777 == 0o640


def test_a_registry_that_cannot_be_written(registry: Path) -> None:
    (registry / "machines").write_text("a file where the directory belongs")
    with pytest.raises((OperatorError, Faults)):
        add(registry, "web2", ["mac=52:54:00:12:34:57"])


def test_machines_of_the_api_are_changed_and_removed_where_they_are(registry: Path) -> None:
    adopted = registry / "state" / "adopted"
    adopted.mkdir(parents=True)
    found = Registry(str(registry), adopted)
    found.load()
    found.describe("web9", {"macs": ["52:54:00:12:34:99"], "vars": {"role": "db"}})
    with pytest.raises(OperatorError, match=f"^{adopted}/web9.yaml:1: machine web9 is described already"):
        add(registry, "web9", ["mac=52:54:00:12:34:58"])
    with pytest.raises(Faults, match="has the MAC address 52:54:00:12:34:99"):
        add(registry, "web10", ["mac=52:54:00:12:34:99"])
    change(registry, "52:54:00:12:34:99", ["profile=local", "vars.role="])
    found.load()
    assert found.current.machines["web9"].profile == "local" and not found.current.machines["web9"].vars
    with pytest.raises(Faults):
        change(registry, "web9", ["macs=52:54:00:12:34:56"])
    remove(registry, "web9")
    found.load()
    assert "web9" not in found.current.machines and list(adopted.iterdir()) == []


def test_the_first_machine_of_a_host_without_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default registry may be absent, and is made then."""
    monkeypatch.setattr("pixieboot.registry.DEFAULT", str(tmp_path / "etc" / "pixieboot"))
    assert add(tmp_path / "etc" / "pixieboot", "web1", ["mac=52:54:00:12:34:56"]).endswith("describes web1 now.")
    assert (tmp_path / "etc/pixieboot/machines/web1.yaml").exists()


def test_a_registry_of_another_program_is_not_written_into(tmp_path: Path) -> None:
    for name in ("groups", "profiles"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.json").write_text('{"id": "a", "profile": "a"}')
    with pytest.raises(Faults, match="that of another program"):
        add(tmp_path, "web1", ["mac=52:54:00:12:34:56"])
    assert not (tmp_path / "machines").exists()


def test_root_is_not_told_to_use_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "machines").write_text("a file where the directory goes")
    for uid, mend in ((0, "Mend its directory"), (1000, "use sudo")):
        monkeypatch.setattr("pixieboot.adopt.os.geteuid", lambda uid=uid: uid)
        with pytest.raises(OperatorError, match=mend):
            add(tmp_path, "web2", ["mac=52:54:00:12:34:58"])
