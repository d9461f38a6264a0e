"""A headless Chromium, by chromedriver's own protocol (WebDriver): Debian has both as chromium and chromium-driver."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Browser:
    """One window."""

    def __init__(self, address: str, session: str) -> None:
        self.address, self.session = address, session

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """What the driver answers."""
        data = json.dumps(body).encode() if method == "POST" else None
        request = Request(f"{self.address}/session/{self.session}{path}", data, method=method)
        with urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def open(self, page: Path) -> None:
        """Load a file."""
        self.ask("POST", "/url", url=page.resolve().as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.ask("POST", "/execute/sync", script=script, args=list(arguments))

    def click(self, selector: str) -> None:
        """As a person does, in the middle of an element."""
        found = self.ask("POST", "/element", using="css selector", value=selector)
        (element,) = found.values()
        self.ask("POST", f"/element/{element}/click")

    def press(self, key: str) -> None:
        """A key, into what has the focus."""
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self.ask("POST", "/actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def messages(self) -> list[str]:
        """What the page complained of."""
        return [entry["message"] for entry in self.ask("POST", "/se/log", type="browser")]


@contextmanager
def started(width: int = 1200, height: int = 900) -> Iterator[Browser]:
    """A browser without a network; the test is skipped where there is none."""
    binary = next((path for name in NAMES if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs Chromium and its driver (Debian: apt-get install chromium chromium-driver)")
    with subprocess.Popen(
        [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = next(found[1] for line in process.stdout if (found := re.search(r"on port (\d+)\.", line)))
            flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"]
            flags.append("--host-resolver-rules=MAP * ~NOTFOUND")
            options = {"args": flags, "binary": binary}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            body = json.dumps({"capabilities": {"alwaysMatch": wanted}}).encode()
            with urlopen(Request(f"http://127.0.0.1:{port}/session", body), timeout=60) as answer:
                session = json.loads(answer.read())["value"]["sessionId"]
            browser = Browser(f"http://127.0.0.1:{port}", session)
            try:
                yield browser
            finally:
                browser.ask("DELETE", "")
        finally:
            process.terminate()
