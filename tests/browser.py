"""A headless Chromium for acceptance tests, driven by ChromeDriver: https://www.w3.org/TR/webdriver2/.

Plain HTTP does: what the tests need of a browser is to open pages, to run scripts in them, and what it complains of.
"""

import base64
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.conftest import skip_unless_ci
from tests.deployment import eventually, free_port

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
Json = dict[str, Any]


class Browser:
    """`with Browser(folder) as browser: …`; the profile is in `folder`."""

    def __init__(self, folder: Path) -> None:
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if not (chromium and driver):
            skip_unless_ci("no Chromium with its ChromeDriver (apt-get install chromium chromium-driver)")
        port = free_port()
        self._process = subprocess.Popen(
            [str(driver), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
        self._options = {
            "binary": chromium,
            "args": [*ARGUMENTS, f"--user-data-dir={folder}"],
        }
        self._session = ""

    def __enter__(self) -> Self:
        try:
            eventually(self._ready, what="ChromeDriver is ready")
            wanted = {"goog:chromeOptions": self._options, "goog:loggingPrefs": {"browser": "ALL"}}
            made = self._http.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
            assert "sessionId" in made, made
            self._session = f"/session/{made['sessionId']}"
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _ready(self) -> bool:
        try:
            return bool(self._http.get("/status").json()["value"]["ready"])
        except httpx.TransportError:
            return False

    def _close(self) -> None:
        try:
            if self._session:
                self._http.delete(self._session)  # ends the Chromium
        finally:
            self._http.close()
            self._process.terminate()
            self._process.wait(20)

    def _do(self, method: str, path: str, body: Json | None = None) -> Any:
        answer = self._http.request(method, self._session + path, json=body if method == "POST" else None)
        value = answer.json()["value"]
        if answer.status_code != 200:
            raise AssertionError(f"{path}: {value['error']}: {value['message'].splitlines()[0]}")
        return value

    def open(self, url: str) -> None:
        self._do("POST", "/url", {"url": url})

    def reload(self) -> None:
        self._do("POST", "/refresh", {})

    @property
    def url(self) -> str:
        return str(self._do("GET", "/url"))

    def run(self, script: str, *arguments: object) -> Any:
        """What the function body `script` returns in the page; a promise is waited for."""
        return self._do("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        """The text in the first element that fits, as it is in the document; nothing where there is none."""
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def click(self, selector: str) -> None:
        """As a user does it: on an element that can be seen and is not covered."""
        found = self._do("POST", "/element", {"using": "css selector", "value": selector})
        self._do("POST", f"/element/{next(iter(found.values()))}/click", {})

    def type(self, selector: str, text: str) -> None:
        found = self._do("POST", "/element", {"using": "css selector", "value": selector})
        self._do("POST", f"/element/{next(iter(found.values()))}/value", {"text": text})

    def wait(self, look: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
        """`eventually`, and on failure what the page looked like."""
        try:
            return eventually(look, seconds, what)
        except AssertionError as error:
            shown = self.run("return document.body.innerText")
            raise AssertionError(f"{error}\n--- {self.url}\n{shown}\n{self.complaints()}") from None

    def complaints(self) -> list[str]:
        """What the console has said since it was last asked, from warnings on: errors, and what the policy blocked."""
        entries: list[Json] = self._do("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def look(self, *, width: int, height: int, dark: bool = False) -> None:
        """Have a window of that size, and this taste in light."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """The whole page, also what is below the window."""
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def devtools(self, command: str, **parameters: object) -> Json:
        """https://chromedevtools.github.io/devtools-protocol/"""
        found: Json = self._do("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})
        return found
