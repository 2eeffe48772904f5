"""A headless Chromium, controlled through a pipe by its DevTools protocol: real input events, no extra package."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page; `send` sends any DevTools command, and the other methods those that the tests use."""

    def __init__(self, requests, replies):
        self.requests, self.replies, self.ids, self.session = requests, replies, itertools.count(1), None
        self.events = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **params):
        message_id = next(self.ids)
        message = {"id": message_id, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.requests.write(json.dumps(message).encode() + b"\0")
        self.requests.flush()
        while (reply := self.receive()).get("id") != message_id:
            self.events.append(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply["result"]

    def receive(self):
        message = bytearray()
        while (byte := self.replies.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("Chromium has ended")
            message += byte
        return json.loads(message)

    def open(self, path, width=1000, height=800, mobile=False):
        """Open a file in a window of this size in CSS pixels, with a phone's screen and touch if `mobile`."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 2 if mobile else 1}
        self.send("Emulation.setDeviceMetricsOverride", **screen, mobile=mobile)
        self.send("Emulation.setTouchEmulationEnabled", enabled=mobile)
        self.events.clear()
        self.send("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())

    def run(self, script):
        """Return the value of a JavaScript expression, awaited if it is a promise."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def mouse(self, points):
        for event, (x, y) in _press_move_release(points, "mousePressed", "mouseMoved", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=event, x=x, y=y, button="left", buttons=1, clickCount=1)

    def touch(self, points):
        for event, (x, y) in _press_move_release(points, "touchStart", "touchMove", "touchEnd"):
            fingers = [] if event == "touchEnd" else [{"x": x, "y": y}]
            self.send("Input.dispatchTouchEvent", type=event, touchPoints=fingers)

    def press(self, key, times=1):
        names = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": key} if len(key) == 1 else {}
        for _ in range(times):
            self.send("Input.dispatchKeyEvent", type="keyDown", **names, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", **names)


KEYS = {"Tab": 9, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Delete": 46}


def _press_move_release(points, press, move, release):
    return [(press, points[0]), *((move, point) for point in points), (release, points[-1])]


@contextlib.contextmanager
def browser(profile):
    """Yield a Browser that runs until the block ends; `profile` is a new directory for its files."""
    chromium_input, requests = os.pipe()
    replies, chromium_output = os.pipe()
    # Chromium reads commands from descriptor 3 and writes replies to 4; bash redirects our pipes there.
    command = f'exec "$@" 3<&{chromium_input} 4>&{chromium_output}'
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", PROGRAM, *options, "--remote-debugging-pipe"],
        pass_fds=(chromium_input, chromium_output),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(chromium_input)
    os.close(chromium_output)
    with os.fdopen(requests, "wb") as writer, os.fdopen(replies, "rb") as reader:
        try:
            yield Browser(writer, reader)
        finally:
            process.terminate()
            process.wait(30)
