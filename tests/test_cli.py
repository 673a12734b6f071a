"""The command line: what an operator reads, and the exit code that a script sees."""

import gc
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from pixieboot.cli import CONFIG, main, settings_path
from pixieboot.config import load

COMMANDS = sorted(main.list_commands(click.Context(main)))


def call(*words: str) -> Result:
    return CliRunner().invoke(main, words, catch_exceptions=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    assert "Example: " in result.output


def test_all_commands_are_listed() -> None:
    result = call("--help")
    assert {"serve", "check", "lab", "import", "install-service", "why", "doctor"} <= set(COMMANDS)
    assert all(name in result.output for name in COMMANDS)


def test_check_says_what_it_read(tmp_path: Path) -> None:
    (tmp_path / "pixieboot.yaml").write_text("registry: .\n")
    result = call("check", "-c", str(tmp_path / "pixieboot.yaml"))
    assert result.exit_code == 0
    assert result.output.endswith("0 machines, 0 groups, 2 profiles, 0 templates; no faults.\n")


def test_check_tells_every_fault_with_its_place_and_exits_2(tmp_path: Path) -> None:
    (tmp_path / "pixieboot.yaml").write_text("registry: .\nunknwon: menu\nanswer: some\n")
    (tmp_path / "machines.yaml").write_text("web1: {mac: 52:54:00:12:34, profile: local}\n")
    result = call("check", "-c", str(tmp_path / "pixieboot.yaml"))
    assert result.exit_code == 2
    places = [line.split(": ")[0].rpartition("/")[2] for line in result.output.splitlines()]
    assert places == ["pixieboot.yaml:2", "pixieboot.yaml:3", "machines.yaml:1"]


def test_an_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from pixieboot.serve import daemon

    seen: list[object] = []
    monkeypatch.setattr(daemon, "run", lambda path, overrides: seen.extend((path, overrides)))
    runner = CliRunner(env={"PIXIEBOOT_HTTP_PORT": "81", "PIXIEBOOT_INTERFACE": "eth0 eth1", "PIXIEBOOT_CONFIG": "/x.yaml"})
    runner.invoke(main, ["serve", "--http-port", "82"], catch_exceptions=False)
    assert seen == [Path("/x.yaml"), {"http_port": 82, "interfaces": ("eth0", "eth1")}]


def test_what_the_start_makes_is_never_looked_through_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    from pixieboot.serve import daemon

    frozen: list[bool] = []
    monkeypatch.setattr(daemon, "run", lambda path, overrides: frozen.append(gc.isenabled() and gc.get_freeze_count() > 0))
    gc.unfreeze()
    thresholds = gc.get_threshold()
    try:
        call("serve")
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
    assert frozen == [True]


def test_a_number_that_is_none_names_the_option() -> None:
    result = call("serve", "--http-port", "eighty")
    assert result.exit_code == 2
    assert "--http-port" in result.output


def test_the_usual_settings_file_is_used_if_it_is_there() -> None:
    assert settings_path(Path("x")) == Path("x")
    assert settings_path(None) == (Path(CONFIG) if Path(CONFIG).exists() else None)


def test_import_writes_files_and_says_what_it_left_out(tmp_path: Path) -> None:
    source = tmp_path / "dnsmasq.conf"
    source.write_text("dhcp-host=52:54:00:12:34:56,web1,192.168.77.10\nserver=8.8.8.8\n")
    result = call("import", str(source), "--to", str(tmp_path / "new"))
    assert result.exit_code == 0
    assert f"wrote {tmp_path}/new/machines.yaml" in result.output
    assert f"{source}:2: " in result.output
    again = call("import", str(source), "--to", str(tmp_path / "new"))
    assert again.exit_code == 2 and "it exists already" in again.output


def test_what_was_imported_is_checked_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("box/groups").mkdir(parents=True)
    Path("box/profiles").mkdir()
    Path("box/groups/all.json").write_text('{"id": "all", "profile": "linux"}')
    Path("box/profiles/linux.json").write_text('{"id": "linux", "boot": {"kernel": "/assets/vmlinuz"}}')
    assert "check -c new/pixieboot.yaml, and move" in call("import", "box", "--to", "new").output
    checked = call("check", "-c", "new/pixieboot.yaml")
    assert checked.exit_code == 0 and "new/pixieboot.yaml, new: 0 machines, 1 groups, 3 profiles" in checked.output
    assert load(Path("new/pixieboot.yaml"), {}).assets == tmp_path / "box/assets"


def test_import_of_nothing_known(tmp_path: Path) -> None:
    result = call("import", str(tmp_path), "--to", str(tmp_path / "new"))
    assert result.exit_code == 2 and "neither Matchbox nor bootcfg" in result.output
