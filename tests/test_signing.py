"""Signatures that gpg itself verifies."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixieboot.errors import OperatorError
from pixieboot.serve.signing import Signer
from tests.httphost import Host, serving

MAC = "02:00:00:00:00:01"
REGISTRY = {
    "machines.yaml": f"web1: {{mac: {MAC}, profile: linux}}\n",
    "profiles.yaml": "linux: {kernel: vmlinuz, ignition: i.ign, cloud: c.yaml, generic: g, files: {preseed: p, user-data: c.yaml}}",
    "templates/i.ign": '{"ignition": {"version": "3.4.0"}}',
    "templates/c.yaml": "#cloud-config\r\nends: in CRLF and spaces   \r\n",
    "templates/g": "no newline at the end",
    "templates/p": "ünïcode\n",
}
PASSPHRASE = "correct horse"


class Keys:
    """A home of gpg's with one key, and its key ring as an operator exports it."""

    def __init__(self, directory: Path) -> None:
        self.home, self.ring = directory / "home", directory / "secring.gpg"
        self.home.mkdir(mode=0o700)
        (self.home / "gpg-agent.conf").write_text("s2k-count 65536\n")  # else each use of the key takes a tenth of a second
        secret = ("--pinentry-mode", "loopback", "--passphrase", PASSPHRASE)
        self.gpg(*secret, "--quick-generate-key", "pixieboot test <test@example>", "ed25519", "sign", "never")
        self.ring.write_bytes(self.gpg(*secret, "--export-secret-keys").stdout)

    def gpg(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--no-tty", *arguments]
        return subprocess.run(argv, capture_output=True, timeout=30, check=True, env={**os.environ, "LC_ALL": "C"})

    def verify(self, directory: Path, text: bytes, signature: bytes) -> str:
        """What gpg says of it; raises when it is no good signature."""
        (directory / "text").write_bytes(text)
        (directory / "signature").write_bytes(signature)
        return self.gpg("--verbose", "--verify", str(directory / "signature"), str(directory / "text")).stderr.decode()

    def close(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "gpg-agent"], check=False, timeout=30)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    made = Keys(tmp_path_factory.mktemp("gpg"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def host(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATCHBOX_PASSPHRASE", PASSPHRASE)
        with serving(tmp_path_factory.mktemp("signed"), registry=REGISTRY, key_ring=keys.ring) as running:
            yield running


PATHS = {
    "the entry": "/boot.ipxe{}",
    "the entry under its other name": "/boot.ipxe.0{}",
    "an iPXE script": "/ipxe{}?mac=02-00-00-00-00-01",
    "a GRUB configuration": "/grub{}?mac=02-00-00-00-00-01",
    "a PXELINUX configuration": "/pxelinux{}?mac=02-00-00-00-00-01",
    "Ignition": "/ignition{}?mac=02-00-00-00-00-01",
    "cloud-config with CRLF": "/cloud{}?mac=02-00-00-00-00-01",
    "generic": "/generic{}?mac=02-00-00-00-00-01",
    "metadata": "/metadata{}?mac=02-00-00-00-00-01",
    "another document": "/files/preseed{}?mac=02-00-00-00-00-01",
    "a cloud-init seed": "/cloud-init/02-00-00-00-00-01/user-data{}",
    "Pixiecore's API": "/v1/boot/02-00-00-00-00-01{}",
    "the same, of bootcfg": "/pixiecore/v1/boot/02-00-00-00-00-01{}",
    "and as bootcfg wrote it": "/pixiecore/v1/boot{}/02-00-00-00-00-01",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_gpg_verifies_it(host: Host, keys: Keys, tmp_path: Path, path: str) -> None:
    text = host.get(path.format("")).body
    binary, armoured = host.get(path.format(".sig")), host.get(path.format(".asc"))
    assert (binary.status, binary["content-type"]) == (200, "application/octet-stream")
    assert (armoured.status, armoured["content-type"]) == (200, "text/plain; charset=utf-8")
    assert armoured.body.startswith(b"-----BEGIN PGP SIGNATURE-----\n") and not binary.body.startswith(b"-")
    for signature in (binary.body, armoured.body):
        said = keys.verify(tmp_path, text, signature)
        assert "Good signature" in said and "textmode signature" in said
        with pytest.raises(subprocess.CalledProcessError):
            keys.verify(tmp_path, text + b"x", signature)


def test_it_is_remembered_by_its_text(host: Host) -> None:
    assert host.get("/boot.ipxe.sig").body == host.get("/boot.ipxe.0.sig").body


def test_gpg_that_fails_meanwhile_is_an_alarm_and_no_bug(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(text: bytes, armoured: bool) -> bytes:
        raise OperatorError("secring.gpg", "gpg took longer than 20 s", "Look what keeps gpg-agent.")

    monkeypatch.setattr(host.service._signer, "sign", fails)
    host.events.clear()
    got = host.get("/generic.sig?mac=02-00-00-00-00-01")
    assert (got.status, got.body) == (500, b"It cannot be signed: the log says why.\n")
    (event,) = [event for event in host.events if event.kind == "failed"]
    assert event.level == "alarm" and "gpg took longer" in event.detail["why"]


def test_a_range_is_no_part_of_what_is_signed(host: Host, keys: Keys, tmp_path: Path) -> None:
    whole = host.get("/boot.ipxe").body
    assert "Good signature" in keys.verify(tmp_path, whole, host.get("/boot.ipxe.sig", Range="bytes=0-3").body)


def test_what_is_not_there_has_no_signature(host: Host) -> None:
    (host.context.settings.assets / "a.sig").write_bytes(b"the operator's own")
    assert host.get("/assets/a.sig").body == b"the operator's own"
    for path in ("/assets/b.sig", "/nothing.sig", "/files/none.asc?mac=02-00-00-00-00-01", "/.sig"):
        assert host.get(path).status == 404
    assert host.get("/ignition.sig?mac=rubbish").status == 400
    assert host.ask("HEAD /boot.ipxe.sig HTTP/1.1\nHost: x").status == 200


def test_without_a_key_there_are_none(tmp_path: Path) -> None:
    with serving(tmp_path, registry=REGISTRY) as host:
        assert host.get("/boot.ipxe.sig").status == 404
        assert host.get("/ignition.asc?mac=02-00-00-00-00-01").status == 404


def test_those_of_a_matchbox_registry(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXIEBOOT_PASSPHRASE", PASSPHRASE)
    (tmp_path / "registry/templates").mkdir(parents=True)
    (tmp_path / "registry/templates").rmdir()
    files = {"groups/g.json": '{"id": "g", "profile": "p"}', "profiles/p.json": '{"id": "p", "boot": {"kernel": "/assets/k"}}'}
    with serving(tmp_path, registry=files, key_ring=keys.ring) as host:
        for path in ("/boot.ipxe{}", "/ipxe{}?mac=02-00-00-00-00-01", "/metadata{}"):
            text = host.get(path.format(""))
            assert text.status == 200
            assert "Good signature" in keys.verify(tmp_path, text.body, host.get(path.format(".sig")).body)
        assert host.get("/ignition.sig").status == 404


WRONG = {
    "a wrong passphrase": ("wrong", "ring", "gpg cannot sign with it: .* The passphrase is taken from PIXIEBOOT_PASSPHRASE"),
    "no key ring": (PASSPHRASE, "none", "the key ring cannot be read: No such file or directory. The user pixieboot must"),
    "rubbish": (PASSPHRASE, "rubbish", "gpg cannot sign with it: "),
}


@pytest.mark.parametrize("passphrase, name, sentence", WRONG.values(), ids=WRONG)
def test_a_key_ring_that_cannot_sign(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passphrase: str, name: str, sentence: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("PIXIEBOOT_PASSPHRASE", passphrase)
    (tmp_path / "rubbish").write_text("rubbish")
    ring = keys.ring if name == "ring" else tmp_path / name
    with pytest.raises(OperatorError, match=sentence):
        Signer.open(ring)
    assert [path.name for path in tmp_path.iterdir()] == ["rubbish"], "nothing is left behind"


def test_gpg_is_not_installed(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(OperatorError, match="signing needs the program gpg, which is not installed"):
        Signer.open(keys.ring)
