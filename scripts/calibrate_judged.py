"""Simulate what `tunewise judge` is asked and a study is not; write docs/appendices/calibration-judge.md.

python scripts/calibrate_judged.py [--docs docs] [--studies 20000]      (part of make calibrate)

Seeds that are not paired, unequal numbers of them, two fixed checkpoints, tasks as units, and the mean of given tasks.
Every number goes through the package's own functions. Exit code 1 if a limit is missed.

Shapes: B studies, S seeds of the arm, F of full, N units, T tasks.
"""

import argparse
import math
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from calibrate import Fit, Row, table

from tunewise.desk.judge.means import by_tasks, of_tasks
from tunewise.desk.statistics.spread import summed_spread

Floats = np.ndarray
Draw = Callable[[np.random.Generator, int], tuple[Floats, ...]]  # tables (B, S_k, N) whose means sum to 0 in truth
PAGE = "appendices/calibration-judge.md"
CHUNK_CELLS = 3_000_000

# As in calibrate.py, for the smaller number of seeds.
COVERAGE, COVERAGE_OF_FIXED, OTHER = {3: 0.92, 5: 0.935, 10: 0.94}, 0.94, 0.01
AS_GOOD, AS_GOOD_OF_OTHER = {3: 0.045, 5: 0.035, 10: 0.035}, 0.05
FIXED = 10  # fixed checkpoints have the limits of ten seeds: nothing is estimated from few


@dataclass(frozen=True)
class Question:
    """One kind of logs to judge."""

    name: str
    fewest: int  # seeds of the arm that has fewer
    num_cells: int  # of one study
    draw: Draw
    is_normal: bool = True


def apart(shares: tuple[float, float, float], num_seeds: tuple[int, int], louder: float = 1.0) -> Question:
    """Normal arms whose seeds are not paired; the seeds of the arm with fewer vary `louder` times as much.

    The shares of seeds, units and rest hold for two arms of as many seeds as the arm with fewer.
    """
    num_units = 300
    seed, unit, rest = (math.sqrt(share) for share in shares)
    few = min(num_seeds)

    def draw(rng: np.random.Generator, studies: int) -> tuple[Floats, ...]:
        tables = []
        for count in num_seeds:
            size = seed * math.sqrt(few / 2) * (louder if count == few else 1.0)
            x = rest * math.sqrt(few * num_units / 2) * rng.standard_normal((studies, count, num_units))
            x += size * rng.standard_normal((studies, count, 1))
            tables.append(x)
        tables[0] += unit * math.sqrt(num_units) * rng.standard_normal((studies, 1, num_units))
        return tuple(tables)

    loud = f", seeds of the arm with fewer vary {louder:.2g} times as much" if louder != 1 else ""
    name = f"unpaired seeds, {num_seeds[0]} against {num_seeds[1]}, normal {shares}{loud}"
    return Question(name, few, sum(num_seeds) * num_units, draw)


def apart_accuracy(num_rows: int, num_seeds: tuple[int, int]) -> Question:
    """Accuracies of arms that disagree on 4% of the rows, with the two pseudo-units of the package."""

    def draw(rng: np.random.Generator, studies: int) -> tuple[Floats, ...]:
        is_hard = rng.random((studies, 1, num_rows), dtype=np.float32) < 0.08
        wrong = [(rng.random((studies, count, num_rows), dtype=np.float32) < 0.5) * is_hard for count in num_seeds]
        arm, full = (table.astype(np.float64) for table in wrong)
        return _with_pseudo(arm, [1.0, -1.0]), _with_pseudo(-full, [0.0, 0.0])

    name = f"unpaired seeds, {num_seeds[0]} against {num_seeds[1]}, accuracy, {num_rows} rows"
    return Question(name, min(num_seeds), sum(num_seeds) * num_rows, draw, is_normal=False)


def _with_pseudo(table: Floats, values: list[float]) -> Floats:
    added = np.broadcast_to(values, (*table.shape[:2], len(values)))
    return np.concatenate([table, added], axis=2)


def fixed(kind: str, num_units: int) -> Question:
    """Two checkpoints: units alone."""

    def draw(rng: np.random.Generator, studies: int) -> tuple[Floats, ...]:
        if kind == "normal":
            return (rng.standard_normal((studies, 1, num_units)),)
        if kind == "exponential":
            return (rng.standard_exponential((studies, 1, num_units)) - 1,)
        share = float(kind) / 2
        drawn = rng.random((studies, 1, num_units))
        table = (drawn < share).astype(np.float64) - (drawn > 1 - share)
        return (_with_pseudo(table, [1.0, -1.0]),)

    shown = kind if kind.isalpha() else f"accuracy, disagreeing on {float(kind):.0%}"
    return Question(f"two checkpoints, {num_units} units, {shown}", FIXED, num_units, draw, kind == "normal")


def tasks(num_tasks: int, are_new: bool, num_seeds: tuple[int, ...] = (3,)) -> Question:
    """The mean over tasks of 40 to 400 units; with new tasks, tasks differ as much as half of the variance."""
    sizes = np.linspace(40, 400, num_tasks).astype(int)
    make = by_tasks if are_new else of_tasks

    def draw(rng: np.random.Generator, studies: int) -> tuple[Floats, ...]:
        of_seeds = [rng.standard_normal((studies, count, 1)) / math.sqrt(3) for count in num_seeds]
        of_tasks: list[list[Floats]] = [[] for _ in num_seeds]
        for size in sizes:
            task = rng.standard_normal((studies, 1, 1)) * are_new * math.sqrt(num_tasks / 2)
            units = math.sqrt(size * num_tasks / 2) * rng.standard_normal((studies, 1, size))
            for place, seeds in enumerate(of_seeds):
                x = seeds + 0.5 * math.sqrt(size) * rng.standard_normal((studies, seeds.shape[1], size))
                x = x + 0.3 * rng.standard_normal((studies, seeds.shape[1], 1))  # seeds by tasks
                of_tasks[place].append(x + (task + units if place == 0 else 0))
        return tuple(make(of) for of in of_tasks)

    kind = "new tasks" if are_new else "these tasks alone"
    few = min(num_seeds)
    seeds = f"{num_seeds[0]} paired seeds" if len(num_seeds) == 1 else f"{num_seeds[0]} against {num_seeds[1]} seeds"
    return Question(f"mean of {num_tasks} tasks, {kind}, {seeds}", few, int(sum(num_seeds) * sizes.sum()), draw)


def questions() -> list[Question]:
    """All that are simulated."""
    shares = [(0.0, 0.0, 1.0), (0.1, 0.6, 0.3), (0.5, 0.4, 0.1), (0.9, 0.05, 0.05)]
    uneven = [apart(of, seeds) for seeds in ((5, 3), (10, 3), (3, 3), (10, 5)) for of in shares]
    loud = [apart(of, (5, 3), louder) for louder in (3.0, 1 / 3) for of in shares[1:]]
    rows = [apart_accuracy(number, seeds) for number in (200, 2000) for seeds in ((5, 3), (3, 3))]
    alone = [fixed(kind, number) for kind in ("normal", "exponential", "0.04", "0.2") for number in (50, 300, 2000)]
    means = [tasks(10, True), tasks(30, True), tasks(10, True, (5, 3)), tasks(3, False), tasks(3, False, (5, 3))]
    return [*uneven, *loud, *rows, *alone, *means]


def measure(question: Question, rng: np.random.Generator, num_studies: int) -> Iterator[Row]:
    """Coverage, and "as good" with the truth at a margin of two true standard errors."""
    chunk = max(CHUNK_CELLS // question.num_cells, 1)
    estimates, covers, called = [], [], []
    fits = []
    for begin in range(0, num_studies, chunk):
        tables = question.draw(rng, min(chunk, num_studies - begin))
        estimate = sum(of.mean(axis=(-2, -1)) for of in tables)
        fits.append(Fit(np.asarray(estimate), summed_spread(tables)))
        estimates.append(estimate)
        covers.append(fits[-1].covers(0.0))
    margin = 2 * float(np.concatenate(estimates).std())
    for found in fits:
        called.append(found.moved(margin).says(margin)["as good"])
    least = (COVERAGE_OF_FIXED if question.fewest == FIXED else COVERAGE[question.fewest]) - OTHER * (
        not question.is_normal
    )
    most = AS_GOOD[question.fewest] if question.is_normal else AS_GOOD_OF_OTHER
    yield Row(question.name, "coverage of 95%", float(np.concatenate(covers).mean()), least, is_least=True)
    yield Row(question.name, "as good at the margin", float(np.concatenate(called).mean()), most)


def main() -> None:
    """Measure, write the page, and exit with 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--studies", type=int, default=20_000)
    given = parser.parse_args()
    rows = []
    streams = np.random.default_rng(0).spawn(100)
    for question, stream in zip(questions(), streams, strict=False):
        for row in measure(question, stream, given.studies):
            rows.append(row)
            print(f"{'held' if row.holds() else 'MISS'} {row.cell}: {row.what} {row.measured:.1%}", flush=True)
    text = (
        (Path(__file__).parent / "calibrate_judged.md")
        .read_text(encoding="utf-8")
        .format(
            count=len(rows),
            missed=sum(not row.holds() for row in rows),
            studies=f"{given.studies:,}",
            versions=f"Python {platform.python_version()}, NumPy {np.__version__}",
            table=table(rows),
        )
    )
    (given.docs / PAGE).write_text(text, encoding="utf-8")
    sys.exit(any(not row.holds() for row in rows))


if __name__ == "__main__":
    main()
