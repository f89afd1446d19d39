"""A page in a real browser, and whether anything of it ran."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
NEEDS_BROWSER = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu")
RUN = "document.documentElement.setAttribute('data-owned','1')"  # in a page that owns itself


def dom(page: str, folder: Path) -> str:
    """The page as a browser has it after all that could run has run."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    flags = [*FLAGS, "--virtual-time-budget=2000", f"--user-data-dir={folder}/p"]
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, *flags, "--dump-dom", path.as_uri()], capture_output=True, text=True, check=False, timeout=120
    )
    assert "<html" in done.stdout, done.stderr[-2000:]
    return done.stdout


def is_owned(shown: str) -> bool:
    found = re.search(r"<html[^>]*>", shown)
    assert found is not None
    return "data-owned" in found[0]
