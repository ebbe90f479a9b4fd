"""Lays pages out in a real browser, in light and in dark, and measures them.

Chromium lays out several frames at once. A script inside each page measures; the page around them collects.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome on the PATH")

PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 26)"}

# The policy forbids every fetch, and the browser tells of each attempt.
MEASURE = """
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<script>
const fetched = [];
document.addEventListener('securitypolicyviolation', event => fetched.push(event.blockedURI));
const shown = element => element.outerHTML.slice(0, 90);
const rgb = colour => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
function luminance(colour) {
  const [r, g, b] = rgb(colour).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}
function scrolls(element) {
  for (let up = element.parentElement; up; up = up.parentElement)
    if (['auto', 'scroll'].includes(getComputedStyle(up).overflowX)) return true;
  return false;
}
const across = (one, other) => Math.min(one.right, other.right) - Math.max(one.left, other.left);
const down = (one, other) => Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
function measure() {
  const paper = getComputedStyle(document.body).backgroundColor;
  const found = {
    paper, fetched, wide: [], outside: [], overlapping: [], small: [], faint: [], drawings: 0,
    width: innerWidth, scrollWidth: document.documentElement.scrollWidth
  };
  for (const element of document.querySelectorAll('body *:not(svg *)')) {
    const box = element.getBoundingClientRect();
    const leaves = box.width && (box.right > innerWidth + 1 || box.left < -1);
    if (leaves && !scrolls(element)) found.wide.push(shown(element));
    const own = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (own && contrast(getComputedStyle(element).color, paper) < 4.5) found.faint.push(shown(element));
  }
  for (const svg of document.querySelectorAll('svg')) {
    const frame = svg.getBoundingClientRect();
    const scale = frame.width / svg.viewBox.baseVal.width;
    const texts = [...svg.querySelectorAll('text')].map(text => [text, text.getBoundingClientRect()]);
    found.drawings += frame.width > 0 && frame.height > 0;
    texts.forEach(([text, box], place) => {
      if (across(box, frame) < box.width - 1 || down(box, frame) < box.height - 1) found.outside.push(shown(text));
      const meets = ([_, other]) => across(box, other) > 1 && down(box, other) > 3;
      if (texts.slice(0, place).some(meets)) found.overlapping.push(shown(text));
      if (parseFloat(getComputedStyle(text).fontSize) * scale < 8) found.small.push(shown(text));
      if (contrast(getComputedStyle(text).fill, paper) < 4.5) found.faint.push(shown(text));
    });
  }
  parent.postMessage(JSON.stringify([name, found]), '*');
}
addEventListener('load', () => setTimeout(measure, 100));
</script>
"""

COLLECT = """<!DOCTYPE html>
<meta charset="utf-8">
<pre id="measured"></pre>
<script>
const all = {};
addEventListener('message', message => {
  const [name, found] = JSON.parse(message.data);
  all[name] = found;
  document.getElementById('measured').textContent = JSON.stringify(all);
});
</script>
"""


def measure(pages: Mapping[str, tuple[int, str]], folder: Path) -> dict[str, Any]:
    """What the browser measures of each page, given as its width and its source, by its name and colour scheme."""
    for name, (_, page) in pages.items():
        (folder / f"{name}.html").write_text(page.replace("<head>", "<head>" + MEASURE), encoding="utf-8")
    frames = "".join(
        f'<iframe name="{name} {scheme}" width="{width}" height="800" style="border: 0; color-scheme: {scheme}" '
        f'src="{name}.html"></iframe>'
        for name, (width, _) in pages.items()
        for scheme in PAPER
    )
    (folder / "frames.html").write_text(COLLECT + frames, encoding="utf-8")
    found: dict[str, Any] = json.loads(_dump(folder / "frames.html", folder / "profile"))
    assert found.keys() == {f"{name} {scheme}" for name in pages for scheme in PAPER}
    return found


def check(found: dict[str, Any], width: int, scheme: str) -> None:
    """A page fits into its width, can be read, and fetches nothing."""
    assert found["width"] == width
    assert found["scrollWidth"] <= width
    assert found["wide"] == []
    assert found["outside"] == []
    assert found["overlapping"] == []
    assert found["small"] == []
    assert found["faint"] == []
    assert found["fetched"] == []
    assert found["paper"] == PAPER[scheme]


def _dump(page: Path, profile: Path) -> str:
    """Opens a page without any network and returns what it wrote into ``#measured``."""
    command = [
        str(BROWSER),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}",
        "--window-size=1700,2600",
        "--virtual-time-budget=5000",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    match = re.search(r'<pre id="measured">(.+?)</pre>', done.stdout, re.DOTALL)
    assert match, f"the browser measured nothing:\n{done.stdout[-500:]}\n{done.stderr[-2000:]}"
    return html.unescape(match[1])
