"""Photograph report.html of a finished study for the README, and note which code drew it.

tunewise quickstart && python scripts/picture_report.py runs/quickstart

Builds the report again, writes docs/report.png and, in docs/report.png.sha256, the hash of the page's templates, of
the charts' code and of the wording. A test fails as soon as these are no longer the ones in the picture.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tunewise.desk.report.pages.html import write_report
from tunewise.storage.ledger import Ledger

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
REPORT = ROOT / "src" / "tunewise" / "desk" / "report"
PICTURE = ROOT / "docs" / "report.png"
NOTE = PICTURE.with_suffix(".png.sha256")
# what the upper part of the page is drawn from
DRAWN_FROM = ("pages/*.j2", "pages/html.py", "charts/*.py", "sentences.py", "wording.py", "rows.py")
SIZE = (1280, 1680)  # pixels: verdicts, their chart, and the first rows of the table of arms


def drawing_hash() -> str:
    """SHA-256 of the code that the picture shows, independent of where it is checked out."""
    found = hashlib.sha256()
    for path in sorted(path for pattern in DRAWN_FROM for path in REPORT.glob(pattern)):
        found.update(path.relative_to(REPORT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def photograph(page: Path, picture: Path) -> None:
    """A picture of the top of the page. Raises FileNotFoundError without a Chromium."""
    from browser import BROWSER, FLAGS

    if BROWSER is None:
        raise FileNotFoundError("no Chromium found. Install one")
    with tempfile.TemporaryDirectory() as profile:
        flags = [*FLAGS, "--hide-scrollbars", f"--user-data-dir={profile}"]
        window = f"--window-size={SIZE[0]},{SIZE[1]}"
        command = [BROWSER, *flags, window, f"--screenshot={picture}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> None:
    """Write the picture and its note."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a finished study folder, such as runs/quickstart")
    folder = parser.parse_args().folder
    write_report(Ledger(folder))
    photograph(folder / "report.html", PICTURE)
    NOTE.write_text(drawing_hash() + "\n", encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)} and {NOTE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
