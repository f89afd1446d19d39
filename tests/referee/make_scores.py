"""Writes scores.csv beside this file: the fixture of the referee, from a fixed seed.

python tests/referee/make_scores.py
"""

import csv
import random
from pathlib import Path

HARMS = {"full": 0.0, "better": -0.08, "as-good": 0.004, "worse": 0.12, "undecided": 0.035}  # nats per token


def rows() -> list[list[object]]:
    """arm, seed, unit, row, nll, tokens: 5 seeds, 40 units of one to three rows."""
    rng = random.Random(20)
    test = [(f"u{unit:02d}", f"r{unit:02d}{i}", rng.randint(4, 40), rng.uniform(1, 3))
            for unit in range(40) for i in range(rng.randint(1, 3))]  # fmt: skip
    easier = {(arm, unit): rng.gauss(0, 0.05) for arm in HARMS for unit, *_ in test}
    found: list[list[object]] = []
    for arm, harm in HARMS.items():
        for seed in range(1, 6):
            shift = harm + rng.gauss(0, 0.006)
            for unit, row, tokens, hard in test:
                nll = tokens * (hard + shift + easier[arm, unit] + rng.gauss(0, 0.03))
                found.append([arm, seed, unit, row, round(nll, 6), tokens])
    return found


if __name__ == "__main__":
    with (Path(__file__).parent / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["arm", "seed", "unit", "row", "nll", "tokens"], *rows()])
