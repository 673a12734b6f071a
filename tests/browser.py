"""A headless Chromium, driven over its DevTools protocol through a pair of pipes: no driver, no port, nothing leaves the host."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PATIENCE = 20.0  # seconds: a busy machine is slow, a hanging page is noticed
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe", "--hide-scrollbars",
)  # fmt: skip
# name -> what DevTools wants to know of a key
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, ""), "ArrowDown": (40, ""), "ArrowUp": (38, ""), " ": (32, " ")}


def program() -> str | None:
    """Where Chromium is, if it is installed (Ubuntu has it as a snap only, which needs a login session)."""
    found = shutil.which("chromium")
    return found if found and not os.path.realpath(found).startswith("/snap") else None


class Browser:
    """A browser with one page.  directory: where it keeps its profile; it must be empty."""

    def __init__(self, directory: Path) -> None:
        down, up = _pipe(), _pipe()
        binary = program()
        assert binary, "there is no chromium here"

        def connect() -> None:
            os.dup2(down[0], 3)
            os.dup2(up[1], 4)

        self._process = subprocess.Popen(
            [binary, *FLAGS, f"--user-data-dir={directory}", "about:blank"], preexec_fn=connect, close_fds=False,
            env={"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8", "TZ": "UTC"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(down[0])
        os.close(up[1])
        self._out, self._in = down[1], up[0]
        self._number, self._buffer, self._session = 0, b"", ""
        self.errors: list[str] = []  # what the page wrote to its console as an error, and what it refused to load
        pages = [each for each in self._call("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        self._session = self._call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._session = ""
        try:
            self._call("Browser.close")
        except (OSError, EOFError):
            pass
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)

    # --- what a person does ---

    def open(self, url: str) -> None:
        """Go there, and wait until all of it is loaded."""
        self._call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def click(self, selector: str) -> None:
        where = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)

    def press(self, key: str, times: int = 1) -> None:
        code, text = KEYS[key]
        for _ in range(times):
            given = {"key": key, "code": key if key != " " else "Space", "windowsVirtualKeyCode": code}
            self._call("Input.dispatchKeyEvent", type="keyDown", text=text, **given)
            self._call("Input.dispatchKeyEvent", type="keyUp", **given)

    def type(self, text: str) -> None:
        self._call("Input.insertText", text=text)

    def tab_to(self, selector: str) -> None:
        """By keyboard alone, as far as that element."""
        for _ in range(60):
            self.press("Tab")
            if self.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
                return
        raise AssertionError(f"the keyboard does not reach {selector}")

    def screen(self, width: int, height: int, dark: bool = False) -> None:
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        scheme = "dark" if dark else "light"
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        whole = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(whole["data"]))

    # --- what a person sees ---

    def evaluate(self, script: str) -> Any:
        told = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise AssertionError(f"{script}: {told['exceptionDetails']['exception'].get('description')}")
        return told["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until this is true of the page; looked at whenever the document changes, and on the page after this one too."""
        look = (
            f"new Promise(done => {{ const look = () => {{ try {{ if ({condition}) done(true); }} catch (e) {{}} }};"
            "new MutationObserver(look).observe(document, {subtree: true, childList: true, attributes: true, characterData: true});"
            "addEventListener('load', look); document.addEventListener('focusin', look);"
            "setTimeout(() => done(false), 1000); look();"
            "})"
        )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if self.evaluate(look):
                    return
            except LostPage:
                pass
        raise AssertionError(f"it never came: {condition}\n{self.text()}")

    def text(self) -> str:
        return str(self.evaluate("document.body.innerText"))

    # --- the protocol ---

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            told = self._read(end)
            if told.get("id") == self._number:
                if "error" in told:
                    raise LostPage(f"{method}: {told['error']['message']}")
                result: dict[str, Any] = told["result"]
                return result
            if told.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(told["params"]["exceptionDetails"]))
            entry = told.get("params", {}).get("entry", {})
            if told.get("method") == "Log.entryAdded" and entry["level"] == "error":
                self.errors.append(f"{entry['text']} {entry.get('url', '')}")

    def _read(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise AssertionError("the browser does not answer")
            octets = os.read(self._in, 1 << 20)
            if not octets:
                raise EOFError("the browser ended")
            self._buffer += octets
        text, _, self._buffer = self._buffer.partition(b"\0")
        told: dict[str, Any] = json.loads(text)
        return told


class LostPage(Exception):
    """The page went away in the middle of a question: it is another one now."""


def _pipe() -> tuple[int, int]:
    """Ends with numbers above those that Chromium wants."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
