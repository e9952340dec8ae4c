"""A real browser for the page's tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_chromium() -> str:
    """Return the path of Chromium: the variable ``CHROMIUM``, or what is on the path."""
    named = os.environ.get("CHROMIUM")
    found = named or next((path for path in map(shutil.which, _NAMES) if path is not None), None)
    if found is None:
        pytest.fail(
            "the page is tested in Chromium, and none is here: install it (Debian: apt-get install chromium) "
            "or set CHROMIUM=PATH",
            pytrace=False,
        )
    return found


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run Chromium without a window while the block lasts."""
    path = find_chromium()
    # Chromium's sandbox refuses root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()
