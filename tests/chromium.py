"""Debian's Chromium without a window, spoken to by its own protocol over a pair of pipes.

https://chromedevtools.github.io/devtools-protocol/: messages are JSON, each ended by a zero byte,
on the file descriptors 3 and 4 (`--remote-debugging-pipe`). No driver and no library is needed.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The descriptors that Chromium wants are not free to choose.
LAUNCHER = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
LAUNCHER += "os.execv(sys.argv[3], sys.argv[3:])"
OPTIONS = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run"


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page, as a context."""

    def __init__(self, program: str, width: int, height: int) -> None:
        self._program = program
        self._size = (width, height)
        self._number = 0
        self._session: dict[str, str] = {}
        # What the page has asked for over the network.
        self.requested: list[str] = []
        self.complaints: list[str] = []

    def __enter__(self) -> Self:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, write = os.pipe()
        read, from_browser = os.pipe()
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_browser, from_browser)]
        profile = f"--user-data-dir={self._profile.name}"
        options = [*OPTIONS.split(), "--remote-debugging-pipe", profile]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, *map(str, theirs), self._program, *options],
            pass_fds=theirs,
            stderr=subprocess.DEVNULL,
        )
        for fd in (to_browser, from_browser, *theirs):
            os.close(fd)
        self._write, self._read = os.fdopen(write, "wb"), os.fdopen(read, "rb")
        target = self("Target.createTarget", url="about:blank")["targetId"]
        attached = self("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "DOM", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")
        size = dict(zip(("width", "height"), self._size, strict=True))
        self("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(30)
        self._write.close()
        self._read.close()
        self._profile.cleanup()

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while (answer := self._message()).get("id") != self._number:
            if answer.get("method") == "Network.requestWillBeSent":
                self.requested.append(answer["params"]["request"]["url"])
            elif answer.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(answer["params"]))
            elif answer.get("method") == "Log.entryAdded":
                self.complaints.append(answer["params"]["entry"]["text"])
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    def _message(self) -> dict[str, Any]:
        content = bytearray()
        while (byte := self._read.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            content += byte
        return dict(json.loads(content))

    def evaluate(self, expression: str) -> Any:
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        """Waits until an expression is true, and returns its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"{expression} did not become true: {self.complaints}"
            time.sleep(0.05)
        return value

    def upload(self, selector: str, file: Path) -> None:
        """Chooses a file as a user does in the dialogue."""
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def screenshot(self) -> bytes:
        found = self("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(found["data"])
