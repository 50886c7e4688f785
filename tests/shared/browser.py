"""A real headless Chromium, driven through its own protocol over a pipe: nothing to install but the browser."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip


class Page:
    """One tab; commands and events as https://chromedevtools.github.io/devtools-protocol has them."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, os.fdopen(from_browser, "rb")
        self._last, self._session = 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._last:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def open(self, path: Path, width: int, *, dark: bool = False, height: int = 900) -> None:
        """Show a file at a width, to its end."""
        media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=media)
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        self.send("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def evaluate(self, expression: str) -> Any:
        """What a JavaScript expression comes to."""
        return self.send("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def errors(self) -> list[str]:
        """What the console would show in red, so far."""
        self.evaluate("0")  # what was logged before stands before its answer
        wrong = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in wrong]

    def requests(self) -> list[str]:
        """What was fetched, pictures within the page left out."""
        sent = [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith("data:")]

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        data = self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _read(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser has gone")
            message += byte
        return dict(json.loads(message))


@contextmanager
def open_browser(profile: Path) -> Iterator[Page]:
    """A page of a browser that ends with the block."""
    assert CHROMIUM is not None, "callers skip where there is none"
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    # The browser reads from descriptor 3 and writes to 4; out of the way of those, so that none overwrites another.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, from_write)]
    process = subprocess.Popen(
        [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"],
        preexec_fn=lambda: [os.dup2(end, number) for number, end in enumerate(ends, 3)],
        pass_fds=(3, 4),
        stderr=subprocess.DEVNULL,
    )
    for end in (to_read, from_write, *ends):
        os.close(end)
    try:
        yield Page(to_write, from_read)
    finally:
        process.terminate()
        process.wait()
        os.close(to_write)
        _wait_until_gone(profile)


def _wait_until_gone(profile: Path) -> None:
    """Its helpers may still write into the profile for a moment."""
    for _ in range(50):
        try:
            shutil.rmtree(profile)
            return
        except OSError:
            time.sleep(0.1)
