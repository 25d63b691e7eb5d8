"""Chromium without a window, driven by the WebDriver protocol, which is JSON over HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "Chromium and its driver are not installed: apt-get install chromium chromium-driver"


class Browser:
    """A session; errors of the driver are RuntimeErrors with its message."""

    def __init__(self, address: str, options: dict[str, Any]):
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._address = f"{address}/session"
        created = self._call("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        self._address += f"/{created['sessionId']}"

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, address: str) -> None:
        self._call("POST", "/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a function of JavaScript returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": arguments})

    def run_async(self, script: str) -> Any:
        """What the body of a function gives to its last argument."""
        return self._call("POST", "/execute/async", {"script": script, "args": []})

    def wait(self, condition: str, seconds: float = 10.0) -> Any:
        """The value of an expression, as soon as it is true."""
        until = time.monotonic() + seconds
        while not (value := self.run(f"return {condition}")):
            assert time.monotonic() < until, f"{condition} is {value!r}"
            time.sleep(0.02)
        return value

    def press(self, *keys: str) -> None:
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def command(self, name: str, **values: Any) -> Any:
        """A command of Chromium's own protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": name, "params": values})

    def log(self) -> list[str]:
        """What the console has said since the last call."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: pathlib.Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def quit(self) -> None:
        self._call("DELETE", "")


@contextlib.contextmanager
def browser(width: int = 1280, height: int = 860) -> Iterator[Browser]:
    """A new browser."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            line = next(line for line in driver.stdout if "started successfully on port" in line)
            arguments = [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                f"--window-size={width},{height}", f"--user-data-dir={profile}",
            ]  # fmt: skip
            port = line.split("port")[1].strip(" .\n")
            opened = Browser(f"http://127.0.0.1:{port}", {"binary": CHROMIUM, "args": arguments})
            try:
                yield opened
            finally:
                opened.quit()
        finally:
            driver.terminate()
            driver.wait()
            driver.stdout.close()
