"""Write the scores of a log of Inspect as a table that `tunewise judge` reads, with Inspect's own reader.

pip install inspect-ai
python inspect_scores.py LOG.eval SCORER TABLE.csv

An item that was tried in several epochs gets the mean of its scores. C, P and I count 1, 0.5 and 0, as in Inspect's
accuracy. Tried with logs of version 0.3.285, .eval and .json.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any


def scores(samples: Sequence[Any], scorer: str) -> dict[str, float]:
    """Mean score over the epochs of every item. Raises SystemExit if an item has no score of this scorer."""
    from inspect_ai.scorer import value_to_float

    as_number = value_to_float()
    found: dict[str, list[float]] = {}
    for sample in samples:
        known = sample.scores or {}
        if scorer not in known:
            names = ", ".join(known) or "none"
            raise SystemExit(f"item {sample.id}, epoch {sample.epoch}: no score {scorer}. It has: {names}.")
        found.setdefault(str(sample.id), []).append(as_number(known[scorer].value))
    return {name: mean(of_epochs) for name, of_epochs in found.items()}


def main(log: str, scorer: str, table: str) -> None:
    """Convert one log."""
    from inspect_ai.log import read_eval_log_sample_summaries

    found = scores(read_eval_log_sample_summaries(log), scorer)
    with Path(table).open("x", newline="", encoding="utf-8") as file:  # "x": never replaces a file
        writer = csv.writer(file)
        writer.writerow(["id", "score"])
        writer.writerows(found.items())


if __name__ == "__main__":
    main(*sys.argv[1:4])
