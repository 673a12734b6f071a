"""Detached OpenPGP signatures of scripts and documents, made by the program gpg in a directory of its own.

They are text signatures (RFC 4880 §5.2.1, type 0x01), as Matchbox makes them.  A passphrase comes by the environment alone.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections import OrderedDict
from pathlib import Path

from pixieboot.errors import OperatorError

PASSPHRASES = ("PIXIEBOOT_PASSPHRASE", "MATCHBOX_PASSPHRASE")
REMEMBERED = 1024
TIME_LIMIT = 20.0  # seconds; a signature takes some hundredths


class Signer:
    """The first secret key of a key ring.  Its methods take their time: call them in a thread."""

    def __init__(self, key_ring: Path, program: str, home: Path) -> None:
        self._key_ring, self._program, self._home = key_ring, program, home
        self._key = ""
        self._made: OrderedDict[tuple[bytes, bool], bytes] = OrderedDict()

    @classmethod
    def open(cls, key_ring: Path) -> "Signer":
        """The signer with this key ring (`gpg --export-secret-keys`).  Raises OperatorError when it cannot sign."""
        program = shutil.which("gpg")
        if program is None:
            mend = "Install it (apt install gpg gpg-agent), or remove key_ring."
            raise OperatorError(str(key_ring), "signing needs the program gpg, which is not installed", mend)
        signer = cls(key_ring, program, Path(tempfile.mkdtemp(prefix="pixieboot-gpg-")))
        try:
            signer._take_key()
        except BaseException:
            signer.close()
            raise
        return signer

    def sign(self, text: bytes, armoured: bool) -> bytes:
        """The signature of exactly these octets.  Raises OperatorError."""
        name = hashlib.sha256(text).digest(), armoured
        if (made := self._made.get(name)) is None:
            form = ("--armor",) if armoured else ()
            made = self._gpg("--textmode", *form, "--local-user", self._key, "--detach-sign", "--output", "-", given=text)
            self._made[name] = made
            if len(self._made) > REMEMBERED:
                self._made.popitem(last=False)
        return made

    def close(self) -> None:
        """End gpg's agent, and remove its copy of the key."""
        if agent := shutil.which("gpgconf"):
            subprocess.run(
                [agent, "--homedir", str(self._home), "--kill", "gpg-agent"], capture_output=True, timeout=TIME_LIMIT, check=False
            )
        shutil.rmtree(self._home, ignore_errors=True)

    def _take_key(self) -> None:
        try:
            ring = self._key_ring.read_bytes()
        except OSError as error:
            mend = f"The user pixieboot must be able to read it: chgrp pixieboot {self._key_ring} && chmod 640 {self._key_ring}"
            raise OperatorError(str(self._key_ring), f"the key ring cannot be read: {error.strerror}", mend) from None
        passphrase = next((os.environ[name] for name in PASSPHRASES if name in os.environ), "")
        with open(os.open(self._home / "passphrase", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(passphrase)
        # The passphrase lies beside it: making it hard to guess would cost each signature a tenth of a second, and help nobody.
        (self._home / "gpg-agent.conf").write_text("s2k-count 65536\n")
        self._gpg("--import", given=ring)
        listed = self._gpg("--list-secret-keys", "--with-colons").decode(errors="replace").splitlines()
        self._key = next((line.split(":")[9] for line in listed if line.startswith("fpr:")), "")
        if not self._key:
            mend = "Write it with `gpg --export-secret-keys KEY`."
            raise OperatorError(str(self._key_ring), "the key ring holds no secret key", mend)
        self.sign(b"", armoured=False)  # a wrong passphrase is told now

    def _gpg(self, *command: str, given: bytes = b"") -> bytes:
        passphrase = ("--pinentry-mode", "loopback", "--passphrase-file", str(self._home / "passphrase"))
        argv = [self._program, "--homedir", str(self._home), "--batch", "--no-tty", "--quiet", *passphrase, *command]
        environment = {**{name: value for name, value in os.environ.items() if name not in PASSPHRASES}, "LC_ALL": "C"}
        try:
            done = subprocess.run(argv, input=given, capture_output=True, timeout=TIME_LIMIT, env=environment, check=False)
        except subprocess.TimeoutExpired:
            raise OperatorError(
                str(self._key_ring), f"gpg took longer than {TIME_LIMIT:g} s", "Look what keeps gpg-agent."
            ) from None
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[-300:]
            mend = f"The passphrase is taken from {PASSPHRASES[0]}; the key ring is written by `gpg --export-secret-keys KEY`."
            raise OperatorError(str(self._key_ring), f"gpg cannot sign with it: {said}", mend)
        return done.stdout
