"""A page in a real browser: what is wrong with it for those who open it, on a screen or on a telephone."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
REQUIRED = "REQUIRE_BROWSER"  # the environment variable that makes a missing browser a failure
# Nothing but a page's own file is wanted: what the browser does of itself is turned off, as far as it can be.
ARGUMENTS = ["--disable-gpu", "--disable-quic", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND"]
WIDTHS = {1280: "a screen", 390: "a telephone"}
TELEPHONE = 500  # pixels; what is narrower has a device's own way with `meta viewport`, and fingers


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium of the system's, with a profile of its own; the test is skipped where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        message = f"no browser: expected one of {', '.join(NAMES)} on PATH; `apt-get install chromium` brings one"
        pytest.fail(message) if os.environ.get(REQUIRED) else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, file: Path, width: int, *, dark: bool = False) -> Iterator[tuple[Any, list[str]]]:
    """The page at so many pixels of width, and what the browser complains of until it is closed.

    A request for anything but the file itself and what stands in it is a complaint, and is not carried out.
    """
    found: list[str] = []
    own = file.as_uri()
    narrow = width < TELEPHONE
    context = browser.new_context(
        viewport={"width": width, "height": 844},
        is_mobile=narrow,
        has_touch=narrow,
        color_scheme="dark" if dark else "light",
        offline=True,
    )
    try:
        context.route(
            "**/*", lambda route: route.continue_() if route.request.url == own else route.abort("blockedbyclient")
        )
        page = context.new_page()
        page.on("request", lambda r: None if r.url.startswith((own, "data:")) else found.append(f"asks {r.url}"))
        page.on("requestfailed", lambda r: found.append(f"failed: {r.url[:80]}: {r.failure}"))
        page.on("console", lambda message: found.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: found.append(f"error: {error}"))
        page.goto(own)
        yield page, found
    finally:
        context.close()


def complaints(browser: Any, file: Path, width: int, *, dark: bool = False) -> list[str]:
    """All that is wrong with a page, as it is opened and with everything unfolded; empty if it is fine."""
    with opened(browser, file, width, dark=dark) as (page, found):
        for state in ("", "unfolded: "):
            if state:
                page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            for check in (OVERFLOW, CUT_OFF, PICTURES, HEADINGS, LINKS, CONTRAST, SMALL):
                found += [state + line for line in page.evaluate(check, width)]
        if dark:
            found += dark_pictures(page)
    return list(dict.fromkeys(found))


# Each is a function of the width that gives sentences; none where all is well

OVERFLOW = """width => {
  const wide = document.documentElement.scrollWidth;
  return wide > width ? [`the page is ${wide} pixels wide on ${width}`] : [];
}"""

# What reaches beyond the right or left edge can be scrolled to inside a box that does not.
CUT_OFF = """width => {
  const inside = box => box.left >= -0.5 && box.right <= width + 0.5;
  const scrolls = one => one && (
    (['auto', 'scroll'].includes(getComputedStyle(one).overflowX) && inside(one.getBoundingClientRect()))
    || scrolls(one.parentElement));
  return [...document.querySelectorAll('body *')]
    .filter(one => one.checkVisibility() && !inside(one.getBoundingClientRect()) && !scrolls(one))
    .map(one => `cut off: <${one.tagName.toLowerCase()}> ${one.textContent.trim().slice(0, 40)}`);
}"""

# In a picture words are at least 8 points high, which are 9 pixels at 0.84 of its size.
PICTURES = """async () => {
  const found = [];
  for (const one of document.images) {
    const name = `picture ${one.alt.slice(0, 40)}`;
    if (!one.alt) found.push('a picture without words for those who do not see it');
    try { await one.decode(); } catch { /* told below */ }
    if (!(one.complete && one.naturalWidth > 0)) { found.push(`${name}: cannot be decoded`); continue; }
    if (!one.checkVisibility()) continue;
    const box = one.getBoundingClientRect(), scale = box.width / one.naturalWidth;
    if (scale < 0.84) found.push(`${name}: its words are too small, at ${scale.toFixed(2)} of its size`);
    const shape = box.width / box.height / (one.naturalWidth / one.naturalHeight);
    if (Math.abs(shape - 1) > 0.02) found.push(`${name}: out of shape`);
  }
  return found;
}"""

HEADINGS = """() => {
  const levels = [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(one => Number(one.tagName[1]));
  const titles = levels.filter(level => level === 1).length;
  const found = titles === 1 && levels[0] === 1 ? [] : ['not one title, at the top'];
  levels.forEach((level, at) => {
    if (at && level > levels[at - 1] + 1) found.push(`heading h${level} below h${levels[at - 1]}`);
  });
  return found;
}"""

LINKS = """() => [...document.querySelectorAll('a[href]')].map(one => one.getAttribute('href')).filter(href =>
  href.startsWith('#') ? !document.getElementById(decodeURIComponent(href.slice(1))) : !/^(https:|mailto:)/.test(href)
).map(href => `link to nowhere: ${href}`)"""

# WCAG 2.2, 1.4.3: a contrast of 4.5, with the ground that lies below the text.
CONTRAST = """() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const light = color => {
    const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = color.slice(0, 3).map(c => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = one => {
    if (!one) return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
    const color = channels(getComputedStyle(one).backgroundColor);
    return color.length === 3 || color[3] > 0 ? color : ground(one.parentElement);
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || !one.checkVisibility()) continue;
    const [a, b] = [light(channels(getComputedStyle(one).color)), light(ground(one))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) found.add(`contrast ${contrast.toFixed(1)}: ${text.slice(0, 40)}`);
  }
  return [...found];
}"""

SMALL = """() => {
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    const size = parseFloat(getComputedStyle(one).fontSize);
    if (text && one.checkVisibility() && size < 12) found.add(`text of ${size} pixels: ${text.slice(0, 40)}`);
  }
  return [...found];
}"""


def dark_pictures(page: Any) -> list[str]:
    """Pictures whose ground is not the dark page's, or that have nothing light on it."""
    ground = brightness(page.screenshot(clip={"x": 0, "y": 0, "width": 4, "height": 4})).mean()
    found = [] if ground < 0.2 else [f"the page is not dark: {ground:.2f}"]
    for image in page.locator("img:visible").all():
        shown = brightness(image.screenshot())
        name = f"picture {image.get_attribute('alt')[:40]}"
        if abs(shown[:3, :3].mean() - ground) > 0.04:
            found.append(f"{name}: its ground is not that of the page")
        if np.percentile(shown, 99.5) < 0.5:
            found.append(f"{name}: nothing light on the dark ground")
    return found


def brightness(png: bytes) -> NDArray[Any]:
    """Of every pixel, 0 to 1."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=np.float64) / 255
