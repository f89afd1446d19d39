"""Simulate thousands of studies with a known truth; write docs/explanation/statistics.md and its appendix.

python scripts/calibrate.py [--docs docs] [--studies 20000 4000]      (make calibrate)

Every number goes through the package's own functions, over many studies at once. Exit code 1 if a limit is missed.

Shapes: B studies, A arms, S seeds, N units.
"""

import argparse
import math
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from calibrate_cells import Cell, Floats, cells, normal
from calibrate_looks import Design, designs, two_metrics
from calibrate_search import MARGIN, TOLERANCE, searches, searches_table
from scipy import special

from tunewise.desk.protocol.search import brackets_best, chosen_rate, lowest_point, search
from tunewise.desk.statistics.look import Look, looks_of
from tunewise.desk.statistics.multiplicity import holm_levels
from tunewise.desk.statistics.power import ONE_SIDED_ERROR
from tunewise.desk.statistics.spread import Spread, table_spread
from tunewise.records import Evaluation
from tunewise.records.selection import selection_losses
from tunewise.spec import TuningSpec
from tunewise.spec.quantities import HEADROOM_SHARE

SEEDS = (3, 5, 10)
LOOKS = looks_of((3, 5, 10), can_stop=False)  # stopping early cannot add wrong verdicts; see calibrate_looks.py
LOOK_SEEDS = tuple(look.seeds for look in LOOKS)
CHUNK_CELLS = 3_000_000
NUM_SEARCHES = 1000  # on each curve
PAGES = {
    "calibrate_template.md": "explanation/statistics.md",
    "calibrate_appendix.md": "appendices/calibration.md",
}

# Limits on shares of studies, about 4 Monte Carlo errors from what the method gives.
COVERAGE = {3: 0.92, 5: 0.935, 10: 0.94}  # at least; 1 point less for data that are not normal
WIDTH = {3: 1.8, 5: 1.35, 10: 1.15}  # median half-width over 1.96 true standard errors, at most; normal data
AS_GOOD = {3: 0.045, 5: 0.035, 10: 0.035}  # truth at the margin, at most; 5% for data that are not normal
POWER = {3: 0.60, 5: 0.80, 10: 0.90}  # quality loss 0, margin 4 true standard errors, at least; normal data
# Where nothing but the rest varies, the seed component is 0 and not known to be: the price of covering few seeds.
REST_ALONE = "normal (0, 0, 1)"
WIDTH_OF_REST = {3: 2.4, 5: 1.6, 10: 1.3}
POWER_OF_REST = {3: 0.25, 5: 0.75, 10: 0.90}
# Seeds with a tail that a few of them seldom show: no method sees one failing run in ten in five seeds.
HIDDEN_ERROR, HIDDEN_COVERAGE = 0.11, 0.05
ANY_LOOK = 0.055  # over all looks: a wrong "as good", of one arm or any of six; a false difference
TWO_METRICS = 0.035  # what the looks may err together, 3.25%, and one Monte Carlo error
BEYOND = 0.005  # "as good" at a quality loss of 3 margins; the margin is at least 2 true standard errors


@dataclass(frozen=True)
class Row:
    """A measured share and its limit."""

    cell: str
    what: str
    measured: float
    limit: float
    is_least: bool = False  # the limit is a least, not a most

    def room(self) -> float:
        """How far the measured share is on the good side of its limit."""
        return self.measured - self.limit if self.is_least else self.limit - self.measured

    def holds(self, slack: float = 0.0) -> bool:
        """True if the limit holds, moved by `slack` in the lenient direction."""
        return self.room() >= -slack


@dataclass(frozen=True)
class Fit:
    """Results of the two-way interval for many studies; arrays of one number per study, or per study and arm."""

    estimate: Floats
    spread: Spread

    def ends(self, level: float | Floats = ONE_SIDED_ERROR) -> tuple[Floats, Floats]:
        """Lower and upper ends of the intervals with a one-sided error of `level`."""
        below, above = self.spread.reach(1 - 2 * level)
        return self.estimate - below, self.estimate + above

    def covers(self, truth: float) -> Floats:
        """True for each 95% interval that contains the truth."""
        low, high = self.ends()
        return (low <= truth) & (truth <= high)

    def moved(self, harm: float | Floats) -> "Fit":
        """The same studies with this much more quality loss."""
        return replace(self, estimate=self.estimate + harm)

    def p_as_good(self, margin: float) -> Floats:
        """Smallest level at which the verdict is "as good"."""
        return self.spread.probability_of_negative(self.estimate - margin)

    def p_worse(self, margin: float) -> Floats:
        """Smallest level at which the verdict is "worse"."""
        return self.spread.mirrored().probability_of_negative(margin - self.estimate)

    def at(self, look: Look) -> "Fit":
        """The same studies with the degrees of freedom that a look allows."""
        return Fit(self.estimate, self.spread.at_most(look.most_freedom))

    def says(self, margin: float, level: float = ONE_SIDED_ERROR) -> dict[str, Floats]:
        """Verdict -> the studies that get it, in the protocol's order."""
        low, high = self.ends(level)
        better, good = high < 0, high < margin
        worse = (low > margin) & ~good
        return {"better": better, "as good": good & ~better, "worse": worse, "undecided": ~(good | worse)}


def fit(tables_SN: Floats) -> Fit:
    """Fit of tables (..., S, N)."""
    return Fit(tables_SN.mean(axis=(-2, -1)), table_spread(tables_SN))


# --- what is measured


def fits(
    cell: Cell, rng: np.random.Generator, num_studies: int, seeds: tuple[int, ...], harm: float, of_seeds: int
) -> list[Fit]:
    """Fits of `num_studies` studies after each number of seeds; the variance shares hold at `of_seeds`."""
    chunk = max(CHUNK_CELLS // (seeds[-1] * cell.num_units), 1)
    found: list[list[Fit]] = [[] for _ in seeds]
    for begin in range(0, num_studies, chunk):
        tables = cell.draw(rng, min(chunk, num_studies - begin), seeds[-1], of_seeds, harm)
        for place, count in enumerate(seeds):
            found[place].append(fit(tables[:, :count]))
    return [joined(of) for of in found]


def joined(found: list[Fit]) -> Fit:
    """One fit of all these studies."""
    spread = Spread(*(np.concatenate([getattr(one.spread, field.name) for one in found]) for field in fields(Spread)))
    return Fit(np.concatenate([one.estimate for one in found]), spread)


def measure(cell: Cell, rng: np.random.Generator, num_studies: int) -> Iterator[Row]:
    """Yield every row of one cell."""
    drawn = {harm: fits(cell, rng, num_studies, LOOK_SEEDS, harm, 5) for harm in cell.harms}
    null = dict(zip(SEEDS, drawn[0.0], strict=True))
    if cell.kind == "normal":  # the shares hold at each number of seeds
        null |= {seeds: fits(cell, rng, num_studies, (seeds,), 0.0, seeds)[0] for seeds in SEEDS if seeds != 5}
    true_error = {seeds: 1.0 if cell.kind == "normal" else float(null[seeds].estimate.std()) for seeds in SEEDS}
    margin = 2 * true_error[5] if cell.margin is None else cell.margin

    def after(harm: float) -> list[Fit] | None:
        if cell.margin is None:
            return [found.moved(harm) for found in drawn[0.0]]
        return drawn.get(harm)

    for seeds in SEEDS:
        yield from _one_look(cell, seeds, null[seeds], true_error[seeds])
    for place, seeds in enumerate(SEEDS):
        if at_margin := after(margin):
            limit = HIDDEN_ERROR if cell.hides else AS_GOOD[seeds] if cell.kind == "normal" else 0.05
            called = _share(at_margin[place].says(margin)["as good"])
            yield Row(cell.name, f"as good at the margin, {seeds} seeds", called, limit)
        if (beyond := after(3 * margin)) and margin >= 2 * true_error[seeds]:
            called = _share(beyond[place].says(margin)["as good"])
            yield Row(cell.name, f"as good at 3 margins, {seeds} seeds", called, BEYOND)
    any_look = HIDDEN_ERROR if cell.hides else ANY_LOOK
    if at_margin := after(margin):
        wrong = over_looks(at_margin, margin, "as good")
        yield Row(cell.name, "as good at the margin, over all looks", _share(wrong), any_look)
    # with a margin far below the standard error, "worse" is wrong as often as "better"
    for about, small in (("", margin), (", margin a tenth of a true error", 0.1 * true_error[5])):
        wrong = over_looks(drawn[0.0], small, "better") | over_looks(drawn[0.0], small, "worse")
        yield Row(cell.name, f"a false difference, over all looks{about}", _share(wrong), any_look)


def _one_look(cell: Cell, seeds: int, null: Fit, true_error: float) -> Iterator[Row]:
    covers = null.covers(0.0)
    least = COVERAGE[seeds] - (HIDDEN_COVERAGE if cell.hides else 0.01 if cell.kind == "other" else 0)
    yield Row(cell.name, f"coverage of 95%, {seeds} seeds", _share(covers), least, is_least=True)
    if cell.kind != "normal":
        return
    low, high = null.ends()
    width = float(np.median(high - low)) / (2 * 1.96 * true_error)
    yield Row(
        cell.name,
        f"median half-width / 1.96 true errors, {seeds} seeds",
        width,
        (WIDTH_OF_REST if cell.name == REST_ALONE else WIDTH)[seeds],
    )
    power = _share(null.says(4 * true_error)["as good"] | null.says(4 * true_error)["better"])
    yield Row(
        cell.name,
        f"power at a margin of 4 true errors, {seeds} seeds",
        power,
        (POWER_OF_REST if cell.name == REST_ALONE else POWER)[seeds],
        is_least=True,
    )


def over_looks(by_look: Sequence[Fit], margin: float, word: str) -> Floats:
    """Studies that get this verdict at some look after inconclusive ones."""
    found = np.zeros(by_look[0].estimate.shape, dtype=bool)
    is_open = ~found
    for look, of_look in zip(LOOKS, by_look, strict=True):
        said = of_look.at(look).says(margin, look.error)
        found |= is_open & said[word]
        is_open &= said["undecided"]
    return found


def _share(of: Floats) -> float:
    return float(np.mean(of))


def many_arms(shares: tuple[float, float, float], rng: np.random.Generator, num_studies: int) -> Iterator[Row]:
    """How often any of six arms at the margin, compared with the same full runs, is called as good at either look."""
    num_arms, num_units, margin = 6, 100, 2.0
    one = normal(shares, num_units)
    any_wrong, uncorrected = [], []
    chunk = max(CHUNK_CELLS // (7 * 10 * num_units), 1)
    for begin in range(0, num_studies, chunk):
        studies = min(chunk, num_studies - begin)
        runs = one.draw(rng, studies * (num_arms + 1), 10, 5, 0.0).reshape(studies, num_arms + 1, 10, num_units)
        tables = (runs[:, 1:] - runs[:, :1]) / math.sqrt(2) + margin
        found = plain = np.zeros((studies, num_arms), dtype=bool)
        for look in LOOKS:
            p_now = fit(tables[:, :, : look.seeds]).at(look).p_as_good(margin)
            p_left = np.where(found, 0.0, p_now)  # those that have it leave their level to the others
            found = found | (p_left <= holm_levels(p_left, look.error))
            plain = plain | (p_now <= look.error)
        any_wrong.append(found.any(axis=1))
        uncorrected.append(plain.any(axis=1))
    name = f"six arms at the margin {shares}"
    yield Row(name, "any called as good, over all looks", _share(np.concatenate(any_wrong)), ANY_LOOK)
    yield Row(name, "without Holm: any called as good, over all looks", _share(np.concatenate(uncorrected)), 1.0)


def of_designs(measured: Iterable[Design]) -> Iterator[Row]:
    """Wrong verdicts of the looks with and without early ends, two arms at a time."""
    for design in measured:
        for word, share in design.wrong.items():
            limit = ANY_LOOK if design.is_sound else 1.0
            yield Row(design.name, f"any arm wrongly {word}, largest of all cells", share, limit)


def of_two_metrics(measured: dict[str, float]) -> Iterator[Row]:
    """Wrong verdicts where two arms are judged in two metrics."""
    for word, share in measured.items():
        what = f"any arm wrongly {word} in any metric, largest of all cells"
        yield Row("two arms in two metrics, the first decides when an arm ends", what, share, TWO_METRICS)


Score = Callable[[float], Evaluation]  # validation result of a trial from its true loss
SELECTED_BY_TEXTS = ", selected by a share of 200 texts"
NUM_TEXTS, RIGHT_AT_BEST, SHARED = 200, 0.6, 0.7  # share of right texts at the best rate; what rows have in common


def by_loss(noise: float) -> Callable[[np.random.Generator], Score]:
    """Trials whose loss has this standard deviation."""
    return lambda rng: lambda loss: Evaluation(step=1, nll=loss + noise * rng.standard_normal(), accuracy=None)


def by_texts(rng: np.random.Generator) -> Score:
    """Trials of one search whose texts are right or wrong: rows are easy or hard for all, the rest is chance."""
    rows = math.sqrt(SHARED) * rng.standard_normal(NUM_TEXTS)

    def score(loss: float) -> Evaluation:
        found = rows + math.sqrt(1 - SHARED) * rng.standard_normal(NUM_TEXTS)
        right = found < special.ndtri(max(RIGHT_AT_BEST - loss, 1e-9))
        nll = 1 + loss + 0.1 * MARGIN * rng.standard_normal()
        return Evaluation(step=1, nll=nll, accuracy=right.mean(), right="".join(str(int(is_it)) for is_it in right))

    return score


# how a search sees its trials; standard deviations of losses in margins
SEARCHES = {"": by_loss(0.1 * MARGIN), ", noisy search": by_loss(0.6 * MARGIN), SELECTED_BY_TEXTS: by_texts}


def many_units(shares: tuple[float, float, float], rng: np.random.Generator, num_studies: int) -> Iterator[Row]:
    """Three seeds on a very large test set, where the seeds carry nearly all of what is left."""
    cell = normal(shares, 50_000)
    found = fits(cell, rng, num_studies, (3,), 0.0, 3)[0]
    name = f"{cell.name}, 50,000 units, 3 seeds"
    yield Row(name, "coverage of 95%, 3 seeds", _share(found.covers(0.0)), COVERAGE[3] - 0.01, is_least=True)
    called = _share(found.moved(2.0).says(2.0)["as good"])
    yield Row(name, "as good at the margin, 3 seeds", called, 0.05)


def whole_schedule(rng: np.random.Generator, num_studies: int, way: str) -> Iterator[Row]:
    """Errors of the whole schedule, from search to recommendation, with full and three arms.

    The loss is a parabola in the logarithm of the rate. Validation scores of the search are noisy. The truth that a
    verdict must match is the loss at the chosen rates; how often it does not match that at the best rates has no limit,
    because a verdict does not speak of them.
    """
    margin, num_arms, num_units = MARGIN, 4, 100
    tables = normal((0.4, 0.4, 0.2), num_units)
    wrong, num_recommended = dict.fromkeys(["as good", "better", "worse", "recommended"], 0), 0
    wrong_at_best = dict.fromkeys(["as good within 1.25 margins", "worse"], 0)
    for _ in range(num_studies):
        floors = np.array([0.0, 0.0, margin, margin]) + 0.002 * rng.standard_normal(num_arms)
        searches = [_search(best, SEARCHES[way](rng)) for best in rng.uniform(-1, 1, num_arms)]
        harms = (floors + [found[0] for found in searches]) - (floors[0] + searches[0][0])
        runs = 0.008 * tables.draw(rng, num_arms, 10, 5, 0.0)
        x = (runs[1:] - runs[:1]) / math.sqrt(2) + harms[1:, None, None]
        allowed = np.array([searches[0][1] and found[1] for found in searches[1:]])
        counts = [found[2] if found[2] > HEADROOM_SHARE * margin else 0.0 for found in searches]
        said = _say(x, margin, allowed, counts[0], np.array(counts[1:]))
        good = said["as good"] | said["better"]
        num_recommended += bool(good.any())
        wrong["as good"] += bool((good & (harms[1:] >= margin)).any())
        wrong["better"] += bool((said["better"] & (harms[1:] >= 0)).any())
        wrong["worse"] += bool((said["worse"] & (harms[1:] <= margin)).any())
        wrong["recommended"] += bool(good.any() and harms[1 + int(np.argmax(good))] >= margin)  # cheapest first
        at_best = floors[1:] - floors[0]
        wrong_at_best["as good within 1.25 margins"] += bool((good & (at_best >= 1.25 * margin)).any())
        wrong_at_best["worse"] += bool((said["worse"] & (at_best <= margin)).any())
    name = f"the whole schedule, three arms{way}"
    for word, count in wrong.items():
        yield Row(name, f"any arm wrongly {word}", count / num_studies, ANY_LOOK)
    for word, count in wrong_at_best.items():
        yield Row(name, f"at the best rates of both: any arm wrongly {word}", count / num_studies, 1.0)
    yield Row(name, "any arm recommended", num_recommended / num_studies, 1.0)


def _search(best: float, score: Score) -> tuple[float, bool, float]:
    """Excess loss of the chosen rate over the best one, whether the best is bracketed, and the headroom left.

    `best` is the place of the best rate on the grid. One place away costs 0.05.
    """
    tuning = TuningSpec()

    def excess(rate: float) -> float:
        return 0.05 * (math.log(rate / 1e-4, tuning.spacing) - best) ** 2

    results: dict[float, Evaluation | None] = {}
    while waiting := search(tuning, 1e-4, results, {}, selection_losses, TOLERANCE).waiting:
        results |= {rate: score(excess(rate)) for rate in waiting}
    losses = selection_losses(results)
    chosen, lowest = chosen_rate(losses, TOLERANCE), lowest_point(losses)
    assert chosen is not None
    left = lowest.gain if lowest is not None and chosen in losses else 0.0
    return excess(chosen), brackets_best(losses), left


def _say(
    tables_ASN: Floats, margin: float, allowed: Floats, headroom_of_full: float, headroom_of_arm_A: Floats
) -> dict[str, Floats]:
    """Verdicts of the arms after all looks, each at its Holm level; an arm keeps the first verdict that it gets."""
    said = {word: np.zeros(len(tables_ASN), dtype=bool) for word in ("better", "as good", "worse")}
    for look in LOOKS:
        found = fit(tables_ASN[:, : look.seeds]).at(look)
        is_open = ~np.any(list(said.values()), axis=0)
        p_values = {
            "better": np.where(allowed, found.moved(headroom_of_full).p_as_good(0.0), 1.0),
            "as good": np.where(allowed, found.moved(headroom_of_full).p_as_good(margin), 1.0),
            "worse": np.where(allowed, found.moved(-headroom_of_arm_A).p_worse(margin), 1.0),
        }
        before = {word: of.copy() for word, of in said.items()}
        for word, p_A in p_values.items():
            has_it = before[word] | (before["better"] if word == "as good" else False)
            p_left = np.where(is_open, p_A, np.where(has_it, 0.0, 1.0))
            is_new = is_open & (p_left <= holm_levels(p_left, look.error))
            said[word] |= is_new & ~np.any([said[other] for other in said if other != word], axis=0)
    return said


def habit(rng: np.random.Generator, num_studies: int) -> list[tuple[str, int, float, float]]:
    """Rows of cell, seeds, and coverage of new data by a t interval over seed means and by the two-way interval."""
    rows = []
    for shares in [(0.05, 0.85, 0.1), (0.1, 0.6, 0.3), (0.5, 0.4, 0.1)]:
        for seeds in SEEDS:
            x = normal(shares, 100).draw(rng, num_studies, seeds, seeds, 0.0)
            means = x.mean(axis=2)
            half = special.stdtrit(seeds - 1, 0.975) * means.std(axis=1, ddof=1) / math.sqrt(seeds)
            found = fit(x)
            covered = (np.abs(means.mean(axis=1)) <= half, found.covers(0.0))
            rows.append((str(shares), seeds, _share(covered[0]), _share(covered[1])))
    return rows


def every_row(num_normal: int, num_other: int, seed: int = 0) -> Iterator[Row]:
    """Yield all rows of the table; every cell has its own stream of random numbers."""
    streams = iter(np.random.default_rng(seed).spawn(100))
    for cell in cells():
        yield from measure(cell, next(streams), num_normal if cell.kind == "normal" else num_other)
    for shares in [(0.3, 0.3, 0.4), (0.7, 0.2, 0.1)]:
        yield from many_arms(shares, next(streams), num_other)
    for shares in [(0.3, 0.3, 0.4), (0.9, 0.05, 0.05)]:
        yield from many_units(shares, next(streams), num_other // 4)
    yield from of_designs(designs(next(streams), num_other))
    for way in ("", ", noisy search"):
        yield from whole_schedule(next(streams), num_other, way)
    yield from of_two_metrics(two_metrics(next(streams), num_other))
    yield from whole_schedule(next(streams), num_other, SELECTED_BY_TEXTS)


# --- the document


def main() -> None:
    """Measure, write the two pages, and exit with 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--studies", type=int, nargs=2, default=(20_000, 4_000), metavar=("NORMAL", "OTHER"))
    given = parser.parse_args()
    begin = time.perf_counter()
    rows = []
    for row in every_row(*given.studies):
        rows.append(row)
        print(f"{'held' if row.holds() else 'MISS'} {row.cell}: {row.what} {_shown(row, row.measured)}", flush=True)
    habits = habit(np.random.default_rng(1), given.studies[1])
    values = {
        "normal": f"{given.studies[0]:,}",
        "other": f"{given.studies[1]:,}",
        "versions": f"Python {platform.python_version()}, NumPy {np.__version__}",
        "minutes": f"{(time.perf_counter() - begin) / 60:.0f}",
        "table": table(rows),
        "closest": closest(rows),
        "habit": "\n".join(f"| {cell} | {seeds} | {old:.1%} | {ours:.1%} |" for cell, seeds, old, ours in habits),
        "searches": searches_table(searches(NUM_SEARCHES)),
        "num_searches": NUM_SEARCHES,
        "designs": design_table(designs(np.random.default_rng(2), given.studies[1])),
        "missed": sum(not row.holds() for row in rows),
        "none": sum(not row.holds() for row in rows) or "none",
        "count": len(rows),
    }
    for template, page in PAGES.items():
        text = (Path(__file__).parent / template).read_text(encoding="utf-8").format(**values)
        (given.docs / page).write_text(text, encoding="utf-8")
    sys.exit(any(not row.holds() for row in rows))


def closest(rows: list[Row]) -> str:
    """Markdown table of the number closest to its limit, for each kind of check."""
    kinds = {
        "coverage of 95% intervals": "coverage",
        '"as good" although the quality loss is at the margin': "as good at the margin",
        "a difference claimed although there is none": "a false difference",
        "any of six arms at the margin called as good": "any called as good",
        "any arm wrongly judged or recommended, whole schedule": "any arm wrongly",
    }
    lines = ["| checked | closest to its limit | limit | cell |", "| --- | ---: | ---: | --- |"]
    for title, begin in kinds.items():
        row = min((row for row in rows if row.what.startswith(begin)), key=Row.room)
        sign = "≥" if row.is_least else "≤"
        lines.append(f"| {title} | {_shown(row, row.measured)} | {sign} {_shown(row, row.limit)} | {row.cell} |")
    return "\n".join(lines)


def table(rows: list[Row]) -> str:
    """One Markdown table per cell."""
    parts = []
    for cell in dict.fromkeys(row.cell for row in rows):
        parts.append(f"**{cell}**\n\n| measured | | limit |\n| --- | ---: | ---: |")
        for row in (row for row in rows if row.cell == cell):
            sign = "≥" if row.is_least else "≤"
            limit = "none" if row.limit == 1.0 else f"{sign} {_shown(row, row.limit)}"
            parts.append(
                f"| {row.what} | {_shown(row, row.measured)}{'' if row.holds() else ' **missed**'} | {limit} |"
            )
        parts.append("")
    return "\n".join(parts).rstrip()


def design_table(measured: Iterable[Design]) -> str:
    """One Markdown row per design: runs and decided arms, by what the margin can resolve."""
    lines = ["| looks | margin of 2 and 4 errors: runs | decided | margin of 0.5 and 1: runs | decided |",
             "| --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for of in measured:
        wide, narrow = of.resolved, of.unresolved
        lines.append(f"| {of.name} | {wide.runs:.1f} | {wide.decided:.0%} | {narrow.runs:.1f} | {narrow.decided:.0%} |")
    return "\n".join(lines)


def _shown(row: Row, value: float) -> str:
    return f"{value:.2f}" if "half-width" in row.what else f"{value:.1%}"


if __name__ == "__main__":
    main()
