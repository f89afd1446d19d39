"""docs/report.png shows the page that the code draws today."""

import runpy
import struct
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "picture_report.py"
AGAIN = "draw it again: tunewise quickstart && python scripts/picture_report.py runs/quickstart"


def test_the_picture_of_the_report_is_not_older_than_the_code_that_draws_it() -> None:
    script = runpy.run_path(str(SCRIPT))
    noted = script["NOTE"].read_text(encoding="utf-8").strip()
    assert noted == script["drawing_hash"](), f"docs/report.png shows another page; {AGAIN}"


def test_the_picture_of_the_report_has_the_size_that_the_script_asks_for() -> None:
    script = runpy.run_path(str(SCRIPT))
    header = script["PICTURE"].read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:24]) == script["SIZE"]
