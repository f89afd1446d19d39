"""Simulate the looks of a study of full and two arms: runs, decided arms and wrong verdicts of several designs.

Shapes: B studies, K = 2 arms, S seeds, N units.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from calibrate_cells import Floats, normal

from tunewise.desk.statistics.look import Look, looks_of
from tunewise.desk.statistics.multiplicity import holm_levels
from tunewise.desk.statistics.power import ONE_SIDED_ERROR, predictive_chance
from tunewise.desk.statistics.spread import MeanSquares, Spread, mean_squares, table_spread

NUM_ARMS, NUM_UNITS = 2, 40
SHARES = [(0.1, 0.6, 0.3), (0.3, 0.3, 0.4), (0.7, 0.2, 0.1), (0.9, 0.05, 0.05)]
MARGINS = (0.5, 1.0, 2.0, 4.0)  # in true standard errors at 5 seeds
HARMS = (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0, 10.0, 30.0)  # quality losses in margins
TWO_HARMS = (0.0, 1.0, 4.0)  # of either metric, where two are judged
BETTER, AS_GOOD, WORSE = 1, 2, 3


class Cost(NamedTuple):
    """Confirmation runs of a study, and the share of its arms with a verdict."""

    runs: float
    decided: float


@dataclass(frozen=True)
class Design:
    """Results of one way to look, over all cells."""

    name: str
    is_sound: bool  # False: it breaks a rule on purpose, to see that the rule matters
    resolved: Cost  # mean over the cells whose margin a study can resolve
    unresolved: Cost
    wrong: dict[str, float]  # verdict -> share of studies in which any arm gets it wrongly, in the worst cell


class Way(NamedTuple):
    """One way to look."""

    name: str
    looks: list[Look]
    drops: bool = False  # arms that ended inconclusive are taken out of Holm's family


WAYS = [
    Way("5 and 10 (`protocol: fixed`)", looks_of((5, 10), can_stop=False)),
    Way("3, 5 and 10, every inconclusive arm goes on", looks_of((3, 5, 10), can_stop=False)),
    Way("3, 5 and 10 (`protocol: adaptive`)", looks_of((3, 5, 10), can_stop=True)),
    Way("the same, but ended arms give up their level", looks_of((3, 5, 10), can_stop=True), drops=True),
]


@dataclass(frozen=True)
class Fits:
    """Fits (B, K) after a number of seeds."""

    mean: Floats
    spread: Spread
    squares: MeanSquares


def designs(rng: np.random.Generator, num_studies: int) -> list[Design]:
    """Results of all designs, on the same simulated runs."""
    found: dict[str, list[tuple[float, Cost, dict[str, float]]]] = {way.name: [] for way in WAYS}
    for shares in SHARES:
        tables = _tables(rng, shares, num_studies)
        fits = {seeds: _fit(tables[:, :, :seeds]) for seeds in (3, 5, 10)}
        for margin in MARGINS:
            for harm in (margin * times for times in HARMS):
                for way in WAYS:
                    found[way.name].append((margin, *_study(fits, way, harm, margin)))
    return [_design(way, found[way.name]) for way in WAYS]


def _design(way: Way, cells: list[tuple[float, Cost, dict[str, float]]]) -> Design:
    def mean(of: list[Cost]) -> Cost:
        return Cost(*(float(np.mean(values)) for values in zip(*of, strict=True)))

    return Design(
        name=way.name,
        is_sound=not way.drops,
        resolved=mean([cost for margin, cost, _ in cells if margin >= 2]),
        unresolved=mean([cost for margin, cost, _ in cells if margin < 2]),
        wrong={word: max(wrong[word] for _, _, wrong in cells) for word in cells[0][2]},
    )


def _tables(rng: np.random.Generator, shares: tuple[float, float, float], num_studies: int) -> Floats:
    """(B, K, 10, N) tables of quality loss with mean 0; the arms share the runs of full."""
    one = normal(shares, NUM_UNITS)
    runs = one.draw(rng, num_studies * (NUM_ARMS + 1), 10, 5, 0.0)
    runs = runs.reshape(num_studies, NUM_ARMS + 1, 10, NUM_UNITS)
    tables: Floats = (runs[:, 1:] - runs[:, :1]) / np.sqrt(2)
    return tables


def _fit(tables_SN: Floats) -> Fits:
    squares = mean_squares(tables_SN, tables_SN)
    return Fits(tables_SN.mean(axis=(-2, -1)), table_spread(tables_SN, squares), squares)


def _study(fits: dict[int, Fits], way: Way, harm: float, margin: float) -> tuple[Cost, dict[str, float]]:
    """Cost of one cell, and the share of studies in which any arm gets a verdict wrongly."""
    shape = fits[10].mean.shape
    is_open, said, runs, before = np.ones(shape, bool), np.zeros(shape, int), np.zeros(len(fits[10].mean)), 0
    for look in way.looks:
        runs += (look.seeds - before) * (is_open.sum(axis=1) + is_open.any(axis=1))
        before = look.seeds
        found = _verdicts(fits[look.seeds], look, harm, margin, (is_open, said, way.drops))
        said = np.where(is_open, found, said)
        is_open = is_open & (found == 0) & (_chance(fits[look.seeds], look, harm, margin) >= look.least_chance)
    return Cost(float(runs.mean()), float((said != 0).mean())), _wrong(said, harm, margin)


def _wrong(said: Floats, harm: float | Floats, margin: float) -> dict[str, float]:
    """Verdict -> share of studies in which any of the K gets it wrongly."""
    good = (said == BETTER) | (said == AS_GOOD)
    wrong = {
        "as good": (good & (harm >= margin)).any(axis=1).mean(),
        "better": ((said == BETTER) & (harm >= 0)).any(axis=1).mean(),
        "worse": ((said == WORSE) & (harm <= margin)).any(axis=1).mean(),
    }
    return {word: float(share) for word, share in wrong.items()}


def _verdicts(
    fit: Fits, look: Look, harm: float | Floats, margin: float, family: tuple[Floats, Floats, bool]
) -> Floats:
    """Verdicts (B, K) of the open arms at one look, 0 for inconclusive."""
    is_open, said, drops = family
    spread, mean = fit.spread.at_most(look.most_freedom), fit.mean + harm
    p_values = {
        BETTER: spread.probability_of_negative(mean),
        AS_GOOD: spread.probability_of_negative(mean - margin),
        WORSE: spread.mirrored().probability_of_negative(margin - mean),
    }
    found = np.zeros(is_open.shape, int)
    for word, p_K in p_values.items():
        has_it = (said == word) | ((word == AS_GOOD) & (said == BETTER)) | drops
        left = np.where(is_open, p_K, np.where(has_it, 0.0, 1.0))
        found = np.where(is_open & (found == 0) & (left <= holm_levels(left, look.error)), word, found)
    return found


def _chance(fit: Fits, look: Look, harm: float | Floats, margin: float) -> Floats:
    """Chance (B, K) of a verdict at the last look."""
    if look.is_last:
        return np.ones(fit.mean.shape)
    of = (fit.squares, (look.seeds, NUM_UNITS), look.last, ONE_SIDED_ERROR)
    mean = fit.mean + harm
    return predictive_chance(mean - margin, *of) + predictive_chance(margin - mean, *of)


def two_metrics(rng: np.random.Generator, num_studies: int, one_family: bool = True) -> dict[str, float]:
    """Verdict -> share of studies in which any arm gets it wrongly in any of two metrics, in the worst cell.

    The first metric alone decides when an arm ends. Where `one_family` is False, each metric has Holm's error of its
    own, to see that sharing it matters.
    """
    of_metric = [slice(0, NUM_ARMS), slice(NUM_ARMS, 2 * NUM_ARMS)]  # of the comparisons C: arms in either metric
    families = [slice(None)] if one_family else of_metric
    worst = dict.fromkeys(("as good", "better", "worse"), 0.0)
    for shares, correlation in itertools.product(SHARES[1::2], (0.0, 0.7)):
        one, other = _tables(rng, shares, num_studies), _tables(rng, shares, num_studies)
        both = np.concatenate([one, correlation * one + np.sqrt(1 - correlation**2) * other], axis=1)
        fits = {seeds: [_fit(both[:, family, :seeds]) for family in families] for seeds in (3, 5, 10)}
        for margin, *harms in itertools.product(MARGINS[1::2], TWO_HARMS, TWO_HARMS):
            harm_C = margin * np.repeat(harms, NUM_ARMS)
            is_open, said = np.ones(both.shape[:2], bool), np.zeros(both.shape[:2], int)
            for look in looks_of((3, 5, 10), can_stop=True):
                found, chance = np.zeros(said.shape, int), np.zeros(said.shape)
                for family, fit in zip(families, fits[look.seeds], strict=True):
                    before = (is_open[:, family], said[:, family], False)
                    found[:, family] = _verdicts(fit, look, harm_C[family], margin, before)
                    chance[:, family] = _chance(fit, look, harm_C[family], margin)
                said = np.where(is_open, found, said)
                goes_on = ((found == 0) & (chance >= look.least_chance))[:, of_metric[0]]
                is_open = is_open & np.tile(goes_on, 2)
            wrong = _wrong(said, harm_C, margin)
            worst = {word: max(share, wrong[word]) for word, share in worst.items()}
    return worst
