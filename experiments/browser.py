"""Chromium, driven by chromedriver's own protocol (W3C WebDriver, which is JSON over HTTP): for pictures and tests."""

import base64
import io
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
CLICKABLE = "a, button, [role=tab], [role=menuitem], label"
SECONDS = 60.0  # that a page is waited for
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's key of an element's id
TAB, RIGHT, ENTER = "\ue004", "\ue014", "\ue007"


class Browser:
    """A headless Chromium with a page of `width` by `height` pixels.

        with Browser() as browser:
            browser.open("http://127.0.0.1:5000")
            browser.click("Compare")

    Raises:
        RuntimeError: Chromium or chromedriver is not installed, or does not start.
    """

    def __init__(self, *, width: int = 1500, height: int = 1000) -> None:
        if CHROMIUM is None or DRIVER is None:
            raise RuntimeError("install Chromium and its driver: apt-get install chromium chromium-driver")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._folder = tempfile.TemporaryDirectory(prefix="browser-")
        self._driver = subprocess.Popen(
            [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._at = f"http://127.0.0.1:{port}"
        options = {
            "binary": CHROMIUM,
            "args": [*QUIET, f"--user-data-dir={self._folder.name}", f"--window-size={width},{height}"],
        }
        try:
            self._until(lambda: requests.get(f"{self._at}/status", timeout=5).ok, "chromedriver", seconds=20)
            asked = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
            self._session = f"/session/{self._call('POST', '/session', asked)['sessionId']}"
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the browser and its driver."""
        try:
            if hasattr(self, "_session"):
                self._call("DELETE", self._session)
        finally:
            self._driver.terminate()
            self._driver.wait()
            self._folder.cleanup()

    def open(self, address: str) -> None:
        """Goes to `address`, by way of an empty page: MLflow's addresses differ behind the `#` alone, which is no
        journey to a browser.
        """
        for url in ("about:blank", address):
            self._call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a piece of JavaScript returns; `arguments[0]` is the first argument."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def text(self) -> str:
        """The text that the page shows."""
        return str(self.run("return document.body.innerText"))

    def see(self, *words: str) -> str:
        """Waits until the page shows all `words`, and returns its text.

        Raises:
            TimeoutError: it did not within a minute; says what is missing and what there is.
        """
        text = ""

        def shown() -> bool:
            nonlocal text
            text = self.text()
            return all(word in text for word in words)

        try:
            self._until(shown, "", seconds=SECONDS)
        except TimeoutError:
            missing = [word for word in words if word not in text]
            raise TimeoutError(f"the page does not show {missing} after {SECONDS:.0f} s, but: {text[:2000]}") from None
        return text

    def until(self, script: str, *arguments: Any) -> Any:
        """What `script` returns, once that is something.

        Raises:
            TimeoutError: it is nothing for a minute.
        """
        return self._until(lambda: self.run(script, *arguments), script, seconds=SECONDS)

    def click(self, words: str) -> None:
        """Clicks on the first visible link, button, tab, menu item or label that shows these words and no others."""
        script = (
            "return [...document.querySelectorAll(arguments[0])].find(one => one.offsetParent !== null && "
            "[one.innerText, one.getAttribute('aria-label')].some(text => (text || '').trim() === arguments[1]))"
        )
        found = self.until(script, CLICKABLE, words)
        self._call("POST", f"{self._session}/element/{found[ELEMENT]}/click", {})

    def choose(self, selector: str, *files: Path) -> None:
        """Gives files to the page's field for them that a CSS selector finds, as its dialogue would."""
        field = self.run("return document.querySelector(arguments[0])", selector)
        text = "\n".join(str(file.absolute()) for file in files)
        self._call("POST", f"{self._session}/element/{field[ELEMENT]}/value", {"text": text})

    def press(self, key: str) -> None:
        """Presses a key, by its letter or by its code of the protocol (`TAB`)."""
        strokes = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._call("POST", f"{self._session}/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})

    def look_like(self, *, width: int, height: int, dark: bool = False) -> None:
        """Shows the page as a screen of so many pixels does, also of fewer than a window may have; dark or light."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.develop("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.develop("Emulation.setEmulatedMedia", {"features": [scheme]})

    def develop(self, command: str, values: Any) -> Any:
        """What a command of Chromium's own protocol for developers answers."""
        return self._call("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": values})

    def size(self, width: int, height: int) -> None:
        """Makes the page so many pixels large."""
        frame = self.run("return [window.outerWidth - window.innerWidth, window.outerHeight - window.innerHeight]")
        wanted = {"width": width + frame[0], "height": height + frame[1]}
        self._call("POST", f"{self._session}/window/rect", wanted)

    def settle(self) -> None:
        """Waits until the page looks the same twice, half a second apart, and all its pictures are there, or 30 s."""
        end, before = time.monotonic() + 30, b""
        while time.monotonic() < end:
            time.sleep(0.5)
            shown = self._call("GET", f"{self._session}/screenshot")
            loaded = self.run("return [...document.images].every(one => one.complete)")
            if shown == before and loaded:
                return
            before = shown

    def picture(self) -> Image.Image:
        """What the window shows."""
        png = base64.b64decode(self._call("GET", f"{self._session}/screenshot"))
        return Image.open(io.BytesIO(png)).convert("RGB")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(method, f"{self._at}{path}", json=body, timeout=120).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"chromedriver: {answer['error']}: {answer['message'].splitlines()[0]}")
        return answer

    @staticmethod
    def _until(look: Any, what: str, *, seconds: float) -> Any:
        end = time.monotonic() + seconds
        while True:
            try:
                if found := look():
                    return found
            except requests.ConnectionError:  # the driver starts
                pass
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.1)
