"""A real browser, and what a page would fetch."""

import json
import re
import shutil
import subprocess
import tempfile
from html import unescape
from html.parser import HTMLParser

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-quic --disable-sync"
)
FLAGS += " --disable-component-update --enable-logging=stderr --v=0 --virtual-time-budget=9000"


class Loads(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href", "data", "srcset", "action")]


# No window of Chromium is narrower than 500 pixels, so a narrower page is a frame, which hands over what it noted.
HAND_OVER = "setTimeout(() => parent.postMessage({ ...document.body.dataset }, '*'), 6000);"
FRAME = """<!doctype html><body style="margin: 0"><iframe src="probed.html" width="{width}" height="844"></iframe>
<script>
addEventListener("message", (event) => Object.assign(document.body.dataset, event.data));
</script></body>"""


def browse(page, folder, probe, *flags, width=None):
    """What a page with a script at its end is after its scripts have run, and what Chromium wrote to its console.

    With a width in pixels, the page is a frame of that width, and only what the script noted is returned.
    """
    copy = folder / "probed.html"
    probe += HAND_OVER if width else ""
    probed = f"<script>{probe}</script></body>".join(page.read_text(encoding="utf-8").rsplit("</body>", 1))
    copy.write_text(probed, encoding="utf-8")
    if width:
        copy = folder / "frame.html"
        copy.write_text(FRAME.format(width=width), encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as profile:
        command = [_chromium(), *FLAGS.split(), "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"]
        command += [*flags, "--dump-dom", copy.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def noted(dom, name):
    """What a probe left as JSON in `document.body.dataset[name]`."""
    return json.loads(unescape(re.search(f'data-{name}="([^"]*)"', dom).group(1)))


def _chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    # No Python package brings a browser, so a fresh machine may have none; `.ci/run` installs Debian's. What the pages
    # contain is tested without one.
    return found or pytest.skip("needs chromium: apt-get install chromium")
