"""Writes docs/bad-input.md: every case of the table and what is said about it.

PYTHONPATH=src python tests/bad_input/write_document.py
"""

from html import escape
from pathlib import Path

import bad_commands
import bad_files
import bad_rows
import bad_studies
from bad_input_case import Case, Outcome, outcome

DOCUMENT = Path(__file__).parents[2] / "docs" / "bad-input.md"
TOPICS = {**bad_files.TOPICS, **bad_rows.TOPICS, **bad_studies.TOPICS, **bad_commands.TOPICS}
INTRODUCTION = """\
# Bad input, and what is said about it

{count} inputs, {refused} of them refused with exit status 2 before anything is trained, the others odd but good. A
message says what is wrong and where, what was given, what is allowed, and what to do. What is printed here is
what the command prints (names of folders aside); `tests/bad_input` runs every line of it.

Written by `PYTHONPATH=src python tests/bad_input/write_document.py`, with Python 3.11.
"""
LONGEST = 700  # characters of a message shown here


def row_of(case: Case, result: Outcome) -> str:
    """One line of the table."""
    message = result.message if len(result.message) <= LONGEST else f"{result.message[:LONGEST]} ..."
    text = escape(message, quote=False).replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")
    text = text.replace("[", "\\[").replace("\n", "<br>")
    return f"| {case.what} | {'taken: ' if case.is_taken else ''}{text} |"


def main() -> None:
    """Write the document."""
    cases = [case for topic in TOPICS.values() for case in topic]
    refused = sum(not case.is_taken for case in cases)
    parts = [INTRODUCTION.format(count=len(cases), refused=refused)]
    for topic, members in TOPICS.items():
        rows = [row_of(case, outcome(case)) for case in members]
        parts.append("\n".join([f"## {topic}\n", "| input | what is said |", "| --- | --- |", *rows]) + "\n")
    DOCUMENT.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
