"""What a study costs beside training and scoring: the wall time of the quickstart over the seconds of its runs.

python bench/study.py [--out FILE]

Process starts, preparation, loading, writing and the report are the rest. Prints that, and what the plan said of every
arm beside what its confirmed runs took, as the report has it; appends both to --out.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

from machine import environment, publish

from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.rows import planned_rows
from tunewise.desk.report.views.view import Report
from tunewise.storage.ledger import Ledger
from tunewise.text.numbers import duration


def planned(report: Report) -> str:
    """Markdown: the plan beside confirmed runs, arm by arm, and of the whole study."""
    rows = [
        f"| {row.arm} | {' | '.join(row.train_seconds)} | {' | '.join(row.above_start_bytes)} | {row.step_bytes} |"
        for row in planned_rows(report)
    ]
    head = "| arm | training planned | | process above start planned | | tensors of it |\n| --- |" + " ---: |" * 5
    whole = report.study.planned_seconds
    assert whole is not None, "the quickstart is planned"
    expected = f"{duration(whole.least)} to {duration(whole.most)}"
    told = f"All runs: planned {expected}, took {duration(report.study.run_seconds)}."
    return "\n".join([head, *rows, "", told]) + "\n"


def main() -> None:
    """Run the quickstart in an empty folder and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        subprocess.run(["tunewise", "quickstart"], cwd=folder, check=True)
        wall = time.perf_counter() - begin
        ledger = Ledger.open(Path(folder) / "runs" / "quickstart")
        records, table = ledger.records(), planned(build_report(ledger))
    usages = [record.usage for record in records if record.usage]
    spent = sum((usage.train_seconds or 0) + usage.evaluate_seconds for usage in usages)
    text = (
        f"`tunewise quickstart`: {wall:.0f} s of wall time, of which {len(usages)} runs trained and scored for "
        f"{spent:.0f} s: ratio {wall / spent:.2f}. {environment()}\n\n"
        f"{table}"
    )
    print(text)
    publish(text, given.out)


if __name__ == "__main__":
    main()
