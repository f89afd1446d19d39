"""Read and write report.json, which contains a hash of its own text so that changes are noticed."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewise.storage.files import read_text

if TYPE_CHECKING:
    from tunewise.desk.report.views.view import Report

REPORT = "report.json"
SEAL = ',\n "sha256": "'  # the last key; its value is the hash of the text before it


def report_text(report: "Report") -> str:
    """The text of report.json."""
    text = report.model_dump_json(indent=1, exclude={"sha256"}).removesuffix("\n}")
    return f'{text}{SEAL}{_hash(text)}"\n}}'


def read_report(path: Path) -> dict[str, Any] | None:
    """The content of the report at `path`; None if it was changed since it was written.

    Plain data instead of a `Report`, whose types take longer to import than a list of studies takes to print.
    Raises StudyError if the file cannot be read.
    """
    content = read_text(path)
    text, _, seal = content.rpartition(SEAL)
    if seal.removesuffix('"\n}') != _hash(text):
        return None
    found: dict[str, Any] = json.loads(f"{text}\n}}")
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
