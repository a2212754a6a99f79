"""A page in a real browser: what its document became, and whether it asked for anything. Needs Chromium."""

import functools
import http.server
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def find_browser() -> str:
    """Path of a Chromium; skips the test where there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")


def run_browser(*arguments: str, timeout: int = 180) -> subprocess.CompletedProcess:
    """Runs a headless browser with a profile of its own."""
    browser = find_browser()
    with tempfile.TemporaryDirectory() as profile:
        return subprocess.run(
            [browser, *_FLAGS, f"--user-data-dir={profile}", *arguments],
            capture_output=True,
            timeout=timeout,
            check=False,
        )


def dump_dom(path: Path) -> tuple[str, list[str]]:
    """The page as the browser understood it, and every request it made to a server that serves the page.

    Served over HTTP, because there a request for anything is seen; what a page asks for elsewhere is refused by a
    resolver that knows no other host, and is logged by the browser as an error.
    """
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form, *values):
            requests.append(form % values)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(path.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/{path.name}"
        done = run_browser(
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
            url,
        )
    finally:
        server.shutdown()
    requests += [line for line in done.stderr.decode("utf-8", "replace").splitlines() if "CONSOLE" in line]
    return done.stdout.decode("utf-8", "replace"), requests
