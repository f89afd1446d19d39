"""Print the tables of docs/results.md, with their captions, from finished study folders.

python scripts/results_table.py runs/quickstart runs/e2e-tiny ...
"""

import argparse
from pathlib import Path

from tunewise.desk.metrics.metrics import METRICS
from tunewise.desk.report.stored import read_report
from tunewise.desk.report.views.view import ArmView, Report
from tunewise.storage.ledger import Ledger


def main() -> None:
    """Print a caption, a table of arms and a list of verdicts per study folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    for folder in parser.parse_args().folders:
        report = Report.model_validate(read_report(folder / "report.json"))
        print(f"## {report.study.name}\n")
        print(caption(folder) + "\n")
        print("\n".join(table(report)))
        print()
        for verdict in report.verdicts:
            print(f"* {verdict.sentence} {verdict.needs or ''}".rstrip())
        print()


def caption(folder: Path) -> str:
    """The caption that tests/test_results.py wants above a table: when the last run ended, and its numerics."""
    records = Ledger(folder).records()
    ended = [record.usage.ended for record in records if record.usage and record.usage.ended]
    numerics = sorted({record.spec.numerics for record in records})
    day = f"{max(ended):%Y-%m-%d}" if ended else "on an unknown day"
    return f"*Recorded {day}, numerics {', '.join(map(str, numerics))}.*"


def table(report: Report) -> list[str]:
    """The lines of a Markdown table: quality with its interval, then parameters, seconds and bytes on disk."""
    names = [name for name in report.arms[-1].metrics if name != "macro_f1"]
    titles = [
        "arm",
        "rate (tried)",
        *(METRICS[n].label if n in METRICS else n for n in names),
        "trained",
        "seconds",
        "bytes on disk",
    ]
    lines = ["| " + " | ".join(titles) + " |", "| --- " * len(titles) + "|"]
    return lines + ["| " + " | ".join(cells(arm, names)) + " |" for arm in report.arms]


def cells(arm: ArmView, names: list[str]) -> list[str]:
    """The cells of an arm's row: its name, rate, metrics and costs."""
    tried = ", ".join(f"{point.learning_rate:g}" for point in arm.learning_rate_curve)
    rate = f"{arm.learning_rate:g} ({tried})" if arm.learning_rate else "–"
    quality = [f"{m.mean:.4g} ({m.low:.4g} to {m.high:.4g})" for m in (arm.metrics[name] for name in names)]
    if arm.trainable_parameters is None or arm.train_seconds is None or arm.saved_bytes is None:
        return [arm.name, rate, *quality, "–", "–", "–"]
    trained = f"{arm.trainable_parameters:,} ({arm.trainable_percent:.2f}%)"
    return [arm.name, rate, *quality, trained, f"{arm.train_seconds:.1f}", f"{arm.saved_bytes:,}"]


if __name__ == "__main__":
    main()
