"""Headless Chromium from Debian's packages, which reaches nothing but this machine."""

import contextlib
import functools
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER),
    reason="no Chromium: apt-get install chromium chromium-driver",
)
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # its sandbox needs rights that a container does not give
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@contextlib.contextmanager
def chromium(home: Path) -> Iterator[Any]:
    """A selenium driver whose browser keeps its files in `home`, and logs its console and its network."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (*_ARGUMENTS, f"--user-data-dir={home}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(str(CHROMEDRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def console(driver: Any) -> list[str]:
    """What the console said since the last look: errors and refusals of the page's policy."""
    return [entry["message"] for entry in driver.get_log("browser")]


def requests(driver: Any) -> list[str]:
    """The addresses that were asked for since the last look."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [params["request"]["url"] for params in sent]


def emulate(driver: Any, width: int, height: int = 800, scheme: str = "light") -> None:
    """The page is seen on a screen of that size, in light or dark."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


class _Visits(BaseHTTPRequestHandler):
    """A page for every path; remembers the path and the Referer of each visit."""

    def __init__(self, visits: list[tuple[str, str | None]], *args: Any) -> None:
        self.visits = visits
        super().__init__(*args)

    def do_GET(self) -> None:
        self.visits.append((self.path, self.headers.get("Referer")))
        body = b"<!doctype html><title>a source page</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@contextlib.contextmanager
def source_pages() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A web server on 127.0.0.1: its address, and its visits as (path, Referer)."""
    visits: list[tuple[str, str | None]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Visits, visits))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", visits
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
