"""Markdown tables of docs/04-results.md from finished study folders.

python scripts/results_table.py runs/quickstart runs/e2e-tiny ...
"""

import argparse
from pathlib import Path

from tunewise.desk.report.views.view import ArmView, Report
from tunewise.desk.statistics.metrics import METRICS


def main() -> None:
    """Print one table of arms and one list of verdicts per study folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    for folder in parser.parse_args().folders:
        report = Report.model_validate_json((folder / "report.json").read_text(encoding="utf-8"))
        print(f"### {report.study.name}\n")
        print("\n".join(table(report)))
        print()
        for verdict in report.verdicts:
            print(f"* **{verdict.arm}: {verdict.outcome}.** {verdict.sentence} {verdict.needs or ''}".rstrip())
        print()


def table(report: Report) -> list[str]:
    """The lines of a Markdown table: quality with its interval, and cost as a ratio to full."""
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
    """One row: the arm's name, its rate, its metrics, its costs."""
    tried = ", ".join(f"{point.learning_rate:g}" for point in arm.learning_rate_curve)
    rate = f"{arm.learning_rate:g} ({tried})" if arm.learning_rate else "–"
    quality = [f"{m.mean:.4g} ({m.low:.4g} to {m.high:.4g})" for m in (arm.metrics[name] for name in names)]
    if arm.trainable_parameters is None or arm.train_seconds is None or arm.saved_bytes is None:
        return [arm.name, rate, *quality, "–", "–", "–"]
    trained = f"{arm.trainable_parameters:,} ({arm.trainable_percent:.2f} %)"
    return [arm.name, rate, *quality, trained, f"{arm.train_seconds:.1f}", f"{arm.saved_bytes:,}"]


if __name__ == "__main__":
    main()
