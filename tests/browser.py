"""JupyterLab in a real headless browser: Debian's chromium, spoken to through its debugging port."""

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import websocket  # jupyter's own dependency

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="no chromium here")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(what, seconds: float, about: str = "it"):
    """The first true value that ``what()`` gives; an error after so many seconds."""
    deadline, problem = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            if value := what():
                return value
        except OSError as error:
            problem = error
        time.sleep(0.2)
    raise TimeoutError(f"waited {seconds} s for {about}: {problem}")


class Page:
    """A browser's page."""

    def __init__(self, address: str):
        self.socket, self.ids = websocket.create_connection(address, suppress_origin=True, timeout=60), itertools.count()

    def send(self, method: str, **parameters) -> dict:
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv())).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def run(self, script: str):
        """The value of a JavaScript expression; of a promise what it resolves to."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 60):
        return wait_for(lambda: self.run(script), seconds, script)

    def screenshot(self, path: Path) -> Path:
        import base64

        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
        return path


@contextmanager
def open_lab(notebook: Path, **environment: str) -> Iterator[Page]:
    """JupyterLab with a notebook open in a browser, from the notebook's folder; ends both."""
    port, debug = free_port(), free_port()
    profile = notebook.parent / "browser"
    options = {"IdentityProvider.token": "", "LabApp.expose_app_in_browser": "True", "ServerApp.root_dir": str(notebook.parent),
               "LabApp.news_url": "None", "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate"}  # fmt: skip
    lab = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}",
         *(f"--{name}={value}" for name, value in options.items())],
        env=os.environ | {"JUPYTER_CONFIG_DIR": str(notebook.parent / "jupyter")} | environment, cwd=notebook.parent,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    browser = subprocess.Popen(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--remote-debugging-port={debug}",
         "--window-size=1280,1600", f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    read = lambda url: urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).read()  # noqa: E731
    try:
        wait_for(lambda: read(f"http://127.0.0.1:{port}/api"), 60, "JupyterLab")
        pages = wait_for(lambda: json.loads(read(f"http://127.0.0.1:{debug}/json")), 60, "chromium")
        page = Page(next(one["webSocketDebuggerUrl"] for one in pages if one["type"] == "page"))
        page.send("Page.navigate", url=f"http://127.0.0.1:{port}/lab/tree/{notebook.name}?reset")
        page.wait("!!(window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell'))", 90)
        shown = "[...jupyterapp.shell.widgets('main')][0]"
        page.wait(f"['idle', 'busy'].includes({shown}?.sessionContext?.session?.kernel?.status)", 180)
        page.run(f"jupyterapp.shell.activateById({shown}.id) || true")
        yield page
    finally:
        for process in (browser, lab):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
