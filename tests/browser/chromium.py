"""A headless Chromium, driven over the DevTools protocol with the WebSocket library that the viewer itself uses."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--hide-scrollbars",
)


def find_browser() -> str | None:
    """Path of a Chromium on this machine, None if there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class PageError(Exception):
    """The page's script threw, or the browser refused a command."""


class Chromium:
    """One browser with one page. Collects what the page's console says at level error or warning in `complaints`."""

    def __init__(self, binary: str, profile: Path, width: int = 1280, height: int = 800) -> None:
        self.process = subprocess.Popen(
            [binary, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.complaints: list[str] = []
        self.exits = contextlib.ExitStack()
        self.ids = itertools.count(1)
        try:
            self.socket = self.attach(profile / "DevToolsActivePort")
        except BaseException:
            self.process.kill()
            raise
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        self.resize(width, height)

    def attach(self, port_file: Path) -> ClientConnection:
        """The socket of the first page; the browser writes its port into `port_file` when it is up."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, IndexError, ConnectionError):
                port, path = port_file.read_text().split("\n")[:2]
                with connect(f"ws://127.0.0.1:{port}{path}") as browser:
                    browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
                    targets = json.loads(browser.recv(timeout=10))["result"]["targetInfos"]
                page = next(target["targetId"] for target in targets if target["type"] == "page")
                return self.exits.enter_context(connect(f"ws://127.0.0.1:{port}/devtools/page/{page}", max_size=None))
            time.sleep(0.05)
        raise TimeoutError("Chromium did not open its DevTools port within 30 s")

    def command(self, method: str, timeout: float = 30.0, **params: Any) -> dict[str, Any]:
        """Sends one DevTools command and waits for its result."""
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        deadline = time.monotonic() + timeout
        while True:
            message = json.loads(self.socket.recv(timeout=max(0.01, deadline - time.monotonic())))
            if message.get("id") == number:
                if "error" in message:
                    raise PageError(f"{method}: {message['error']['message']}")
                result: dict[str, Any] = message["result"]
                return result
            self.note(message)

    def note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event["method"]:
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(" ".join(str(arg.get("value", arg)) for arg in params["args"]))
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description") or details["text"])
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"]["text"])

    def resize(self, width: int, height: int, scale: float = 1.0, phone: bool = False) -> None:
        """Sets the page's size in CSS pixels; `scale` device pixels make one."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )
        self.command("Emulation.setTouchEmulationEnabled", enabled=phone)

    def open(self, url: str) -> None:
        self.command("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.command(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise PageError(answer["exceptionDetails"]["exception"].get("description", script))
        return answer["result"].get("value")

    def until(self, condition: str, timeout: float = 10.0) -> None:
        """Waits until the expression is true."""
        deadline = time.monotonic() + timeout
        while not self.evaluate(f"Boolean({condition})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout} s: {condition}")
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """A real press of the mouse on the middle of an element, which must be in sight."""
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, text: str) -> None:
        """Types into what has the focus."""
        self.command("Input.insertText", text=text)

    def press(self, key: str, code: int = 0) -> None:
        """One key. Letters need no code; Enter is 13, Escape 27."""
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            keys = {"key": key, "windowsVirtualKeyCode": code or ord(key.upper()[0])}
            self.command("Input.dispatchKeyEvent", type=kind, **keys, **(text if kind == "keyDown" else {}))

    def screenshot(self, path: Path) -> None:
        answer = self.command("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            self.exits.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
