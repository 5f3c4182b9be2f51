"""A headless Chromium that a test can drive: DevTools protocol over a pipe, with nothing but the standard library.

with Chromium(program, profile) as browser:
    browser.open(uri)
    browser.evaluate("document.title")
    browser.press("ArrowLeft")
    picture = browser.photograph()
    browser.complaints, browser.requests      console errors and refused things; addresses asked for
"""

import base64
import fcntl
import io
import json
import os
import select
import subprocess
import time

import numpy as np
from PIL import Image

SECONDS = 60
# Software OpenGL: a machine that runs tests has no graphics card, and Chromium gives no WebGL without being asked.
OPTIONS = (
    "--headless", "--no-sandbox", "--no-first-run", "--disable-quic", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--remote-debugging-pipe", "--force-device-scale-factor=1",
)  # fmt: skip
_BOX = "const box = element.getBoundingClientRect(); return [box.x, box.y + scrollY, box.width, box.height];"


class Chromium:
    """One browser with one page."""

    def __init__(self, program, profile, *options, size=(1200, 900)):
        self.complaints, self.requests, self._number, self._rest = [], [], 0, b""
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # Chromium expects its pipe at 3 and 4; away from these first, so that neither end overwrites the other.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]

        def give():
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        command = [program, *OPTIONS, *options, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([*command, "about:blank"], pass_fds=(3, 4), preexec_fn=give, **quiet)
        for end in (to_read, to_write, *ends):
            os.close(end)
        self._session = None
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")
        self._call(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._send("Browser.close", None)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def open(self, uri, *, dark=False):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=uri)
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression):
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, expression):
        until = time.monotonic() + SECONDS
        while not self.evaluate(expression):
            if time.monotonic() > until:
                raise AssertionError(f"not true within {SECONDS} s: {expression}; {self.complaints}")
            time.sleep(0.05)

    def press(self, key, *, shift=False):
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, modifiers=8 if shift else 0)

    def photograph(self, selector=None, *, path=None):
        """Return the pixels (rows, columns, 3) of an element, or of the window."""
        options = {}
        if selector is not None:
            # In view first: a picture of what lies outside would resize the window, and the 3D view be drawn again.
            x, y, width, height = self.evaluate(
                f"(element => {{ element.scrollIntoView({{behavior: 'instant'}}); {_BOX} }})"
                f"(document.querySelector({selector!r}))"
            )
            options = {"clip": {"x": x, "y": y, "width": width, "height": height, "scale": 1}}
        content = base64.b64decode(self._call("Page.captureScreenshot", format="png", **options)["data"])
        if path is not None:
            path.write_bytes(content)
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), float)

    def _send(self, method, session, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._number

    def _call(self, method, **parameters):
        number = self._send(method, self._session, **parameters)
        until = time.monotonic() + SECONDS
        while True:
            message = self._receive(until)
            if message.get("id") == number:
                if "error" in message:
                    raise AssertionError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def _receive(self, until):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0, until - time.monotonic()))
            content = os.read(self._read, 1 << 20) if ready else b""
            if not content:
                raise AssertionError(f"Chromium gave no answer; it ended with {self._process.poll()}")
            self._rest += content
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def _note(self, message):
        method, found = message.get("method"), message.get("params", {})
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.complaints.append(found.get("exceptionDetails") or [found["type"], found["args"]])
        elif method == "Log.entryAdded":
            self.complaints.append(found["entry"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])
