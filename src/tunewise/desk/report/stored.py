"""report.json: the report as text with a hash of its own, so that no other word can be read from it unnoticed."""

import hashlib
from pathlib import Path

from tunewise.desk.report.view import Report
from tunewise.disk import read_text

REPORT = "report.json"
SEAL = ',\n "sha256": "'  # the last key; its value is the hash of the text before it


def report_text(report: Report) -> str:
    """The text of report.json."""
    text = report.model_dump_json(indent=1, exclude={"sha256"}).removesuffix("\n}")
    return f'{text}{SEAL}{_hash(text)}"\n}}'


def read_report(path: Path) -> Report | None:
    """The report that was written to `path`; None where something else is there now.

    Raises ValidationError for a report of another version, StudyError where the disk refuses.
    """
    content = read_text(path)
    text, _, seal = content.rpartition(SEAL)
    return Report.model_validate_json(f"{text}\n}}") if seal.removesuffix('"\n}') == _hash(text) else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
