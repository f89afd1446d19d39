"""Writes docs/appendices/bad-input.md: every case of the table and what is said about it.

PYTHONPATH=src python tests/bad_input/write_document.py
"""

import re
from html import escape
from pathlib import Path

import bad_adapters
import bad_commands
import bad_files
import bad_rows
import bad_studies
from bad_input_case import Case, Outcome, outcome

DOCUMENT = Path(__file__).parents[2] / "docs" / "appendices" / "bad-input.md"
TOPICS = {**bad_files.TOPICS, **bad_rows.TOPICS, **bad_studies.TOPICS, **bad_commands.TOPICS, **bad_adapters.TOPICS}
INTRODUCTION = """\
# Bad input, and what is said about it

{count} inputs, {refused} of them refused with exit status 2 before anything is trained, the others odd but good. A
message says what is wrong and where, what was given, what is allowed, and what to do. What is printed here is
what the command prints (names of folders aside); `tests/bad_input` runs every line of it.

Written by `PYTHONPATH=src python tests/bad_input/write_document.py`, with Python 3.11.

Beyond the table, measured on 2026-11-27 on two cores:

- *Size* (`PYTHONPATH=src python scripts/large_files.py`): ten million rows of JSON Lines were read in the memory that
  the imports had taken (0 MiB more), and prepared for a study that draws 2,400 of them (`data.limit`) in 299 MiB more;
  a line of 200 MB was refused after 32 MiB. A row that is not drawn takes 24 bytes, and up to 40 while duplicates are
  dropped. A split without a limit is drawn whole, and is in memory; so are a json file (at most 1 GiB) and a Parquet
  file in gz while they are read, and the text that forgetting is measured on.
- *Any bytes at all* (`python scripts/fuzz_readers.py --minutes 10 --seed 2`, with atheris 3.0): hypothesis gave the
  readers and the study file 101,500 changed inputs, atheris, which follows the branches, 144,721. None ended in
  anything but rows, a study or a message. What an earlier run of it broke is kept in
  `tests/bad_input/found_by_fuzzing.json`, which the tests run.
"""
LONGEST = 700  # characters of a message shown here


def row_of(case: Case, result: Outcome) -> str:
    """One line of the table."""
    # the keys are in docs/study.schema.json, and every new one would change this table
    said = re.sub(r"Known: name, model, [^.\n]*\.", "Known: name, model, and the others.", result.message)
    message = said if len(said) <= LONGEST else f"{said[:LONGEST]} ..."
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
