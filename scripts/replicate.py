"""Draw studies from recorded training runs, check their verdicts, and write docs/explanation/replication.md.

python scripts/replicate.py [--studies 2000] [--out docs/explanation/replication.md]      (make replicate)

scripts/pool/ holds the scores of 40 seeds of two real arms and 10 of two known worse ones, on three datasets
(scripts/train_pool.py makes them). A study is drawn as seeds and test units of the pool; its truth is the pool's mean.
Exit code 1 if a limit is missed.

Shapes: B studies, S seeds, U units of the pool, N columns of a table (units, and pseudo-units of a proportion).
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from calibrate import ANY_LOOK, AS_GOOD, COVERAGE, LOOK_SEEDS, SEEDS, Fit, Floats, Row, fit, joined, over_looks, table
from scipy import special

from tunewise.desk.statistics.look import looks_of
from tunewise.desk.statistics.paired import linearise
from tunewise.desk.statistics.power import ONE_SIDED_ERROR, predictive_chance
from tunewise.desk.statistics.spread import mean_squares, table_spread

HERE = Path(__file__).parent
POOLS = {"trec6": "TREC", "sst2": "SST-2", "e2e": "E2E"}
METRICS = {"trec6": ("accuracy", "nll"), "sst2": ("accuracy", "nll"), "e2e": ("nll",)}
MEASURED = tuple((name, metric) for name, metrics in METRICS.items() for metric in metrics)
MARGINS = {"accuracy": 0.01, "nll": 0.02}  # the package's defaults; for NLL the absolute part
NUM_STUDIES = 2000
CONTROLS = ("full-tenth", "lora-r1-query")
CONTROL_FOUND = 0.80  # least share of draws that find an arm with a quality loss above 3 margins in the pool
CHUNK = 200  # studies at once
OUTCOMES = {"better": "better", "as good": "as good", "worse": "worse", "undecided": "inconclusive"}  # as read
STUDIES_PER_SPLIT = 10  # studies per split of an arm's seeds in an A/A test


@dataclass(frozen=True)
class Pool:
    """Recorded runs of one dataset: the summed loss per arm, seed and unit."""

    name: str
    metric: str
    losses: dict[str, Floats]  # arm -> (S, U): error or NLL of the unit, summed over its rows
    sizes_U: Floats  # rows of each unit; of E2E, which is scored per token, its supervised tokens

    @property
    def num_units(self) -> int:
        """Number of units of the pool, and of every study drawn from it."""
        return len(self.sizes_U)

    def harm(self, arm: str, against: str = "full") -> Floats:
        """(S, U) paired differences of the seeds that both arms have."""
        num_seeds = min(len(self.losses[arm]), len(self.losses[against]))
        return self.losses[arm][:num_seeds] - self.losses[against][:num_seeds]

    def truth(self, arm: str) -> float:
        """Mean quality loss of the whole pool, in units of the metric."""
        return float(self.harm(arm).sum(axis=1).mean() / self.sizes_U.sum())


@cache
def read_pool(name: str, metric: str) -> Pool:
    """Read one pool in one metric; `accuracy` becomes the error, so that higher is worse in both."""
    rows = pq.read_table(HERE / "pool" / f"{name}.parquet").to_pandas()
    rows["loss"] = rows["nll"].astype(float) if metric == "nll" else (rows["prediction"] != rows["label"]).astype(float)
    losses = {}
    for arm, of_arm in rows.groupby("arm", observed=True, sort=False):
        losses[str(arm)] = of_arm.pivot_table(
            index="seed", columns="unit", values="loss", aggfunc="sum", observed=True
        ).to_numpy()
    one_run = rows[(rows["arm"] == "full") & (rows["seed"] == rows["seed"].min())]
    by_unit = one_run.groupby("unit", observed=True)
    sizes = by_unit["tokens"].sum() if "tokens" in rows else by_unit.size()
    return Pool(POOLS[name], metric, losses, sizes.to_numpy(dtype=float))


# --- studies drawn from a pool


def draw(rng: np.random.Generator, harm_SU: Floats, pool: Pool, num_studies: int, with_seeds: bool = True) -> Floats:
    """(B, 10, N) tables of quality loss per row, with seeds and units drawn with replacement from the pool.

    The pool is the population. Without `with_seeds`, the first ten seeds are taken as they are.
    """
    seeds = (
        rng.integers(0, len(harm_SU), (num_studies, LOOK_SEEDS[-1], 1))
        if with_seeds
        else np.arange(LOOK_SEEDS[-1])[:, None]
    )
    units = rng.integers(0, pool.num_units, (num_studies, 1, pool.num_units))
    harm, sizes = harm_SU[seeds, units], pool.sizes_U[units[:, 0]]
    if pool.metric == "accuracy":
        pseudo = sizes.mean(axis=-1)[:, None, None] * np.array([1.0, -1.0])
        harm = np.concatenate([harm, np.broadcast_to(pseudo, (num_studies, LOOK_SEEDS[-1], 2))], axis=-1)
        sizes = np.concatenate([sizes, np.repeat(sizes.mean(axis=-1, keepdims=True), 2, axis=-1)], axis=-1)
    return linearise(harm, sizes)


def fits(rng: np.random.Generator, pool: Pool, harm_SU: Floats, num_studies: int) -> dict[int, Fit]:
    """Fits of drawn studies at 3, 5 and 10 seeds."""
    found: dict[int, list[Fit]] = {seeds: [] for seeds in SEEDS}
    for begin in range(0, num_studies, CHUNK):
        tables = draw(rng, harm_SU, pool, min(CHUNK, num_studies - begin))
        for seeds in SEEDS:
            found[seeds].append(fit(tables[:, :seeds]))
    return {seeds: joined(of) for seeds, of in found.items()}


def of_pool(rng: np.random.Generator, pool: Pool, num_studies: int) -> Iterator[Row]:
    """Coverage and errors of lora-r8 against full, with the pool's own mean as the truth."""
    margin, name = MARGINS[pool.metric], f"{pool.name}, {pool.metric}, lora-r8 against full"
    harm_SU, truth = pool.harm("lora-r8"), pool.truth("lora-r8")
    drawn = fits(rng, pool, harm_SU, num_studies)
    for seeds in SEEDS:
        covers = float(drawn[seeds].covers(truth).mean())
        yield Row(name, f"coverage of 95%, {seeds} seeds", covers, COVERAGE[seeds] - 0.01, is_least=True)
    at_margin = {seeds: found.moved(margin - truth) for seeds, found in drawn.items()}
    for seeds in SEEDS:
        wrong = float(at_margin[seeds].says(margin)["as good"].mean())
        yield Row(name, f"as good, quality loss moved to the margin, {seeds} seeds", wrong, max(AS_GOOD[seeds], 0.05))
    wrong = float(over_looks(list(at_margin.values()), margin, "as good").mean())
    yield Row(name, "as good, quality loss moved to the margin, over all looks", wrong, ANY_LOOK)
    equal = {seeds: found.moved(-truth) for seeds, found in drawn.items()}
    called = sum(over_looks(list(equal.values()), margin, word).mean() for word in ("better", "worse"))
    yield Row(name, "a false difference, over all looks", called, ANY_LOOK)


def same_arm(rng: np.random.Generator, pool: Pool, arm: str, num_studies: int) -> Iterator[Row]:
    """Errors of an A/A test: 10 seeds of one arm against 10 others, whose true difference is 0."""
    margin, losses = MARGINS[pool.metric], pool.losses[arm]
    called = []
    for _ in range(num_studies // STUDIES_PER_SPLIT):
        seeds = rng.permutation(len(losses))[: 2 * LOOK_SEEDS[-1]].reshape(2, -1)
        tables = draw(rng, losses[seeds[0]] - losses[seeds[1]], pool, STUDIES_PER_SPLIT, with_seeds=False)
        by_look = [fit(tables[:, :count]) for count in LOOK_SEEDS]
        called.append(sum(over_looks(by_look, margin, word).mean() for word in ("better", "worse")))
    name = f"{pool.name}, {pool.metric}, {arm} against itself"
    yield Row(name, "a false difference, over all looks", float(np.mean(called)), ANY_LOOK)


def control(rng: np.random.Generator, pool: Pool, arm: str, num_studies: int) -> Iterator[Row]:
    """How often an arm that is known to be worse is found."""
    margin, truth = MARGINS[pool.metric], pool.truth(arm)
    drawn = fits(rng, pool, pool.harm(arm), num_studies)
    found = float(over_looks(list(drawn.values()), margin, "worse").mean())
    good = sum(over_looks(list(drawn.values()), margin, word).mean() for word in ("better", "as good"))
    name = f"{pool.name}, {pool.metric}, {arm}: quality loss {truth / margin:.1f} margins in the pool"
    best = best_power(drawn[10], margin)
    is_due = truth > 3 * margin and best >= CONTROL_FOUND
    yield Row(name, "worse, over all looks", found, CONTROL_FOUND if is_due else 0.0, is_least=True)
    if truth > 3 * margin:
        yield Row(name, "worse at 10 seeds, by a test that knows the true standard error", best, 1.0)
    yield Row(name, "better or as good, over all looks", good, ANY_LOOK if truth > margin else 1.0)


def best_power(drawn: Fit, margin: float) -> float:
    """How often a test that knows the true standard error finds "worse"; no unbiased test finds it more often."""
    z = (drawn.estimate - margin) / drawn.estimate.std()
    return float((z > special.ndtri(1 - ONE_SIDED_ERROR)).mean())


def every_row(num_studies: int, seed: int = 0) -> Iterator[Row]:
    """Yield all rows of the tables; every part has its own stream of random numbers."""
    streams = iter(np.random.default_rng(seed).spawn(100))
    for name, metric in MEASURED:
        pool = read_pool(name, metric)
        yield from of_pool(next(streams), pool, num_studies)
        for arm in ("full", "lora-r8"):
            yield from same_arm(next(streams), pool, arm, num_studies)
        for arm in CONTROLS:
            yield from control(next(streams), pool, arm, num_studies)


# --- how often a default study ends inconclusive


class Ends(NamedTuple):
    """How studies of one arm end under the default protocol."""

    outcomes: dict[str, float]  # shares of the studies
    seeds: float  # mean number of confirmation seeds


def ends(rng: np.random.Generator, pool: Pool, arm: str, num_studies: int, num_arms: int) -> Ends:
    """How drawn studies end if `num_arms` arms are compared and none of the others has a verdict (Holm's first level).

    As in the package: looks at 3, 5 and 10 seeds, and an end where the last look would hardly decide.
    """
    margin, looks = MARGINS[pool.metric], looks_of(SEEDS, can_stop=True)
    outcomes, seeds = dict.fromkeys(OUTCOMES, 0.0), np.zeros(num_studies)
    for begin in range(0, num_studies, CHUNK):
        tables = draw(rng, pool.harm(arm), pool, min(CHUNK, num_studies - begin))
        is_open = np.ones(len(tables), dtype=bool)
        for look in looks:
            some = tables[:, : look.seeds]
            squares, mean = mean_squares(some, some), some.mean(axis=(-2, -1))
            said = Fit(mean, table_spread(some, squares)).at(look).says(margin, look.error / num_arms)
            of = (squares, some.shape[-2:], look.last, ONE_SIDED_ERROR)
            chance = predictive_chance(mean - margin, *of) + predictive_chance(margin - mean, *of)
            goes_on = said["undecided"] & (chance >= look.least_chance) & (not look.is_last)
            for outcome in outcomes:
                outcomes[outcome] += (is_open & ~goes_on & said[outcome]).sum() / num_studies
            seeds[begin : begin + len(tables)][is_open] = look.seeds
            is_open = is_open & goes_on
    return Ends(outcomes, float(seeds.mean()))


def ends_table(num_studies: int, seed: int = 1) -> str:
    """Markdown table of how a default study ends on each pool."""
    lines = ["| data | metric | arm | in truth | as good or better | worse | inconclusive | of one arm | seeds |",
             "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    streams = iter(np.random.default_rng(seed).spawn(100))
    for name, metric in MEASURED:
        pool = read_pool(name, metric)
        for arm in ("lora-r8", *CONTROLS):
            rng = next(streams)
            of_one, of_two = (ends(rng, pool, arm, num_studies, num_arms) for num_arms in (1, 2))
            truth = pool.truth(arm) / MARGINS[metric]
            shares, good = of_two.outcomes, of_two.outcomes["as good"] + of_two.outcomes["better"]
            side = "worse" if truth > 0 else "better"
            lines.append(
                f"| {pool.name} | {metric} | {arm} | {abs(truth):.1f} margins {side} | {good:.0%} | "
                f"{shares['worse']:.0%} | **{shares['undecided']:.0%}** | {of_one.outcomes['undecided']:.0%} | "
                f"{of_two.seeds:.1f} |"
            )
    return "\n".join(lines)


# --- whole studies done twice


def replications() -> list[dict[str, Any]]:
    """Results of the studies done twice: study, arm, and per time rate, outcome, difference, low and high."""
    found: list[dict[str, Any]] = json.loads((HERE / "pool" / "replications.json").read_text(encoding="utf-8"))
    return found


def is_opposite(outcomes: list[str]) -> bool:
    """True if one verdict is good enough and the other is worse."""
    return "worse" in outcomes and bool({"as good", "better"} & set(outcomes))


def replication_table(rows: list[dict[str, Any]]) -> str:
    """Markdown table with one line per study and arm."""
    lines = ["| study | arm | first | second | |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        cells = [
            f"{OUTCOMES[t['outcome']]} at {t['look']} seeds, {t['difference']:+.4f} "
            f"({t['low']:+.4f} to {t['high']:+.4f}), "
            f"rate {t['learning_rate']:g}"
            for t in row["times"]
        ]
        verdict = "**contradict**" if is_opposite([t["outcome"] for t in row["times"]]) else "agree"
        lines.append(f"| {row['study']} | {row['arm']} | {cells[0]} | {cells[1]} | {verdict} |")
    return "\n".join(lines)


def main() -> None:
    """Draw, write the page, and exit with 1 if a limit is missed or two verdicts contradict each other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("docs/explanation/replication.md"))
    parser.add_argument("--studies", type=int, default=NUM_STUDIES)
    given = parser.parse_args()
    rows = list(every_row(given.studies))
    for row in rows:
        print(f"{'held' if row.holds() else 'MISS'} {row.cell}: {row.what} {row.measured:.1%}")
    twice = replications()
    opposite = [row["arm"] for row in twice if is_opposite([t["outcome"] for t in row["times"]])]
    template = (HERE / "replicate_template.md").read_text(encoding="utf-8")
    missed = sum(not row.holds() for row in rows)
    text = template.format(
        studies=f"{given.studies:,}",
        count=len(rows),
        missed=missed or "none",
        table=table(rows),
        twice=replication_table(twice),
        pools=pools_table(),
        ends=ends_table(given.studies),
        units=", ".join(f"{read_pool(name, 'nll').num_units} ({label})" for name, label in POOLS.items()),
    )
    given.out.write_text(text, encoding="utf-8")
    sys.exit(bool(missed or opposite))


def pools_table() -> str:
    """Markdown table of the pools' arms, seeds and scores."""
    lines = [
        "| data | arm | seeds | accuracy | spread | NLL | spread |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, label in POOLS.items():
        pools = {metric: read_pool(name, metric) for metric in METRICS[name]}
        for arm, losses in pools["nll"].losses.items():
            scores = {metric: pool.losses[arm].sum(axis=1) / pool.sizes_U.sum() for metric, pool in pools.items()}
            error, nll = scores.get("accuracy"), scores["nll"]
            accuracy = "– | –" if error is None else f"{1 - error.mean():.1%} | {error.std(ddof=1):.1%}"
            lines.append(f"| {label} | {arm} | {len(losses)} | {accuracy} | {nll.mean():.3f} | {nll.std(ddof=1):.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
