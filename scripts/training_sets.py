"""What `data.resample` buys: coverage of new training sets, simulated, and how much training sets matter on E2E.

python scripts/training_sets.py                          prints the simulation (seconds)
python scripts/training_sets.py --data FOLDER_OF_E2E     trains 83 runs, too (minutes)

The runs are those of scripts/pool/e2e.parquet (40 seeds on one training set, at the rates that its searches found), but
each seed draws its own training set from a pool of 400 rows. They go into runs/training-sets; the same command
resumes. The two variances tell how much training sets add to seeds.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from replicate import Floats, read_pool
from scipy import special
from train_pool import NUM_SEEDS, POOL, confirmed, pool_study

import tunewise as tw
from tunewise.desk.metrics.scores import read_scores
from tunewise.desk.statistics.intervals import two_way_interval
from tunewise.storage.ledger import Ledger

SHARES = (0.9, 0.89, 0.7, 0.5, 0.4, 0.3, 0.1, 0.0)  # 0.89 by default
MEASURED = 3.1  # variance of training sets over that of seeds, of the difference on E2E
STUDIES, SEEDS, UNITS = 2_000, 5, 100
TRAIN_ROWS, POOL_ROWS = 160, 400
ARMS = ("full", "lora-r8")


def coverage(shared: float, resample: bool, of_sets: float = 1.0) -> float:
    """Share of studies whose 95% interval covers the mean difference over all training sets, 0.

    Seeds have a variance of 1, training sets one of `of_sets`. A draw takes the share `shared` of its pool, and the
    study has one pool. So of the variance between training sets, this share is common to all draws (sampling without
    replacement), and without resampling all of it.
    """
    rng = np.random.default_rng(19)
    common = shared if resample else 1.0
    covered = 0
    for _ in range(STUDIES):
        of_pool = rng.normal(0, (of_sets * common) ** 0.5)
        of_draw_S = rng.normal(0, (of_sets * (1 - common)) ** 0.5, SEEDS)
        of_seed_S, of_unit_N = rng.normal(0, 1, SEEDS), rng.normal(0, 1, UNITS)
        table_SN = of_pool + (of_draw_S + of_seed_S)[:, None] + of_unit_N + rng.normal(0, 1, (SEEDS, UNITS))
        found = two_way_interval(table_SN)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0 <= found.high
    return covered / STUDIES


def with_difference(scores: dict[str, Floats]) -> dict[str, Floats]:
    """NLL per token of each seed, by arm, and the paired differences of the two arms."""
    full, lora = (scores[arm] for arm in ARMS)
    return {**scores, "difference": lora - full}


def one_set() -> dict[str, Floats]:
    """Scores of the recorded pool, whose seeds train on the same rows."""
    pool = read_pool("e2e", "nll")
    return with_difference({arm: pool.losses[arm].sum(axis=1) / pool.sizes_U.sum() for arm in ARMS})


def new_sets(data: Path) -> dict[str, Floats]:
    """Train each seed on a draw of its own."""
    recorded = pq.read_table(POOL / "e2e.parquet", columns=["arm", "learning_rate"]).to_pandas()
    rates = {arm: float(recorded.loc[recorded["arm"] == arm, "learning_rate"].iloc[0]) for arm in ARMS}
    arms = {
        "full": {"method": "full", "rates": [rates["full"]]},
        "lora-r8": {"method": "lora", "rank": 8, "targets": "all-linear", "rates": [rates["lora-r8"]]},
    }
    study = pool_study("e2e", "tiny", data, arms, NUM_SEEDS)
    limits = {"train": TRAIN_ROWS, "valid": POOL_ROWS - TRAIN_ROWS, "test": study.data.limit.test}
    asked = study.data.replace(valid=None, limit=limits, resample=True)
    out = Path("runs") / "training-sets"
    tw.compare(study.replace(name=out.name, data=asked), out)
    ledger = Ledger.open(out)
    scores = {}
    for arm, runs in confirmed(out).items():
        of_test = [read_scores(ledger.scores_path(run.run_id), "test") for run in runs]
        scores[arm] = np.array([one.nll.sum() / one.num_tokens.sum() for one in of_test])
    return with_difference(scores)


def measured_table(one: dict[str, Floats], new: dict[str, Floats]) -> str:
    """Markdown table: standard deviations over seeds, and the variance that training sets add to that of seeds."""
    lines = ["| | one training set | a draw per seed | variance of training sets / of seeds (95% CI) |",
             "| --- | ---: | ---: | ---: |"]  # fmt: skip
    for what, values in new.items():
        before, after = one[what].std(ddof=1), values.std(ddof=1)
        quantiles = special.fdtri(len(values) - 1, len(one[what]) - 1, [0.975, 0.025])
        ratio, low, high = ((after / before) ** 2 / np.array([1.0, *quantiles]) - 1) / (1 - TRAIN_ROWS / POOL_ROWS)
        lines.append(f"| {what} | {before:.4f} | {after:.4f} | {ratio:.2f} ({low:.2f} to {high:.2f}) |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    print("| variance of training sets / of seeds | training set | share of the pool | coverage |")
    print("| ---: | --- | ---: | ---: |")
    for of_sets in (0.25, 1.0, MEASURED, 4.0):
        print(f"| {of_sets:g} | one for all seeds | | {coverage(1.0, False, of_sets):.0%} |")
        for shared in SHARES:
            print(f"| | drawn for each seed | {shared:g} | {coverage(shared, True, of_sets):.0%} |")
    if given.data:
        print("\n" + measured_table(one_set(), new_sets(given.data.resolve())))


if __name__ == "__main__":
    main()
