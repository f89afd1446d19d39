"""Simulated studies with a known truth: tables of quality loss (B, S, N) with a given mean, for calibrate.py.

Shapes: B studies, S seeds, N units, P units of a pool.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunewise.desk.statistics.paired import linearise

Floats = np.ndarray
SHARES = [(0, 0, 1), (0.1, 0.6, 0.3), (0.3, 0.3, 0.4), (0.5, 0.4, 0.1), (0.7, 0.2, 0.1), (0.9, 0.05, 0.05)]


@dataclass(frozen=True)
class Cell:
    """One kind of study. `draw(rng, B, S, S at which the shares hold, harm)` returns tables of quality loss."""

    name: str
    kind: str  # "normal" or "other"
    num_units: int
    draw: Callable[[np.random.Generator, int, int, int, float], Floats]
    margin: float | None = None  # None: 2 true standard errors at 5 seeds, and quality loss is added afterward
    harms: tuple[float, ...] = (0.0,)  # quality losses that are drawn rather than added afterward
    hides: bool = False  # few seeds cannot show the tail of the seeds: the limits are wider, and the report warns


def normal(shares: tuple[float, float, float], num_units: int = 300) -> Cell:
    """Cell of normal x = seed + unit + rest; the mean has variance 1 at `of_seeds` seeds, in these shares."""
    seed, unit, rest = (math.sqrt(share) for share in shares)

    def draw(rng: np.random.Generator, studies: int, seeds: int, of_seeds: int, harm: float) -> Floats:
        x = rest * math.sqrt(of_seeds * num_units) * rng.standard_normal((studies, seeds, num_units))
        x += seed * math.sqrt(of_seeds) * rng.standard_normal((studies, seeds, 1))
        x += unit * math.sqrt(num_units) * rng.standard_normal((studies, 1, num_units))
        return x + harm

    return Cell(f"normal {shares}", "normal", num_units, draw)


def token_weighted(num_units: int = 300) -> Cell:
    """Cell of NLL per token: lognormal lengths, unit effects with skewness 2 (exponential), linearized as a ratio."""

    def draw(rng: np.random.Generator, studies: int, seeds: int, of_seeds: int, harm: float) -> Floats:
        tokens = np.ceil(rng.lognormal(3.0, 0.8, (studies, num_units)))
        per_token = 0.05 * (rng.standard_exponential((studies, 1, num_units)) - 1)
        per_token = per_token + 0.004 * rng.standard_normal((studies, seeds, 1))
        per_token = per_token + 0.05 * rng.standard_normal((studies, seeds, num_units))
        return linearise((per_token + harm) * tokens[:, None], tokens)

    return Cell("NLL per token, lognormal lengths, skewness 2", "other", num_units, draw)


def accuracy(num_rows: int, discordant: float) -> Cell:
    """Cell of accuracies of arms that disagree on this share of rows.

    Twice as many rows are hard; each arm is right on them in every other run. Two pseudo-units, +1 and -1, are added
    as in the package.
    """
    hard_rows = 2 * discordant
    margin = 0.01

    def draw(rng: np.random.Generator, studies: int, seeds: int, of_seeds: int, harm: float) -> Floats:
        is_hard = rng.random((studies, 1, num_rows), dtype=np.float32) < hard_rows
        lean = harm / (2 * hard_rows)
        arm_wrong = rng.random((studies, seeds, num_rows), dtype=np.float32) < 0.5 + lean
        full_wrong = rng.random((studies, seeds, num_rows), dtype=np.float32) < 0.5 - lean
        table = (arm_wrong.astype(np.float64) - full_wrong) * is_hard
        pseudo = np.broadcast_to([1.0, -1.0], (studies, seeds, 2))
        return np.concatenate([table, pseudo], axis=2)

    harms = tuple(harm for harm in (0.0, margin, 3 * margin) if harm <= hard_rows)
    name = f"accuracy, {num_rows} rows, {discordant:.0%} discordant"
    return Cell(name, "other", num_rows, draw, margin, harms)


def groups(num_groups: int = 40, size: int = 8, correlation: float = 0.2) -> Cell:
    """Cell of rows in groups that share a part; the group is the unit, and its mean is the value."""

    def draw(rng: np.random.Generator, studies: int, seeds: int, of_seeds: int, harm: float) -> Floats:
        shared = math.sqrt(correlation) * rng.standard_normal((studies, 1, num_groups, 1))
        rows = math.sqrt(1 - correlation) * rng.standard_normal((studies, 1, num_groups, size))
        noise = 0.5 * rng.standard_normal((studies, seeds, num_groups, size))
        return (shared + rows + noise).mean(axis=3) + harm

    return Cell(f"groups of {size}, correlation {correlation}", "other", num_groups, draw)


def share_of_gain(share: float = 0.05, num_units: int = 300) -> Cell:
    """Cell of the contrast arm - (1 - k) full - k base, whose mean is 0 at a quality loss of k times the gain."""

    def draw(rng: np.random.Generator, studies: int, seeds: int, of_seeds: int, harm: float) -> Floats:
        full = 0.01 * rng.standard_normal((studies, seeds, 1)) + 0.1 * rng.standard_normal((studies, seeds, num_units))
        arm = 0.01 * rng.standard_normal((studies, seeds, 1)) + 0.1 * rng.standard_normal((studies, seeds, num_units))
        gain = 1 + rng.standard_normal((studies, 1, num_units))  # the base is one run, the same for every seed
        apart = share + 0.1 * rng.standard_normal((studies, 1, num_units))
        return (apart + arm) - (1 - share) * full - share * gain + harm

    return Cell(f"{share:.0%} of the gain", "other", num_units, draw)


def real_records(num_units: int = 100) -> Cell:
    """Cell of units of a real study (length, loss, spread over seeds), drawn with replacement; seeds are normal.

    The truth is the quality loss per token of the whole pool, shifted to 0.
    """
    pool = np.loadtxt(Path(__file__).parent / "calibrate_pool.csv", delimiter=",")
    tokens_P, harm_P = pool[:, 0], pool[:, 1:].mean(axis=1)
    rest_P3 = (pool[:, 1:] - harm_P[:, None]) * math.sqrt(3 / 2)  # residuals of a mean of three are too small
    seed_sd = pool[:, 1:].sum(axis=0).std(ddof=1) / tokens_P.sum()

    def draw(rng: np.random.Generator, studies: int, seeds: int, of_seeds: int, harm: float) -> Floats:
        drawn = rng.integers(0, len(pool), (studies, num_units))
        tokens = tokens_P[drawn]
        rest = rest_P3[drawn[:, None], rng.integers(0, 3, (studies, seeds, num_units))]
        by_seed = harm + seed_sd * rng.standard_normal((studies, seeds, 1)) - harm_P.sum() / tokens_P.sum()
        return linearise(harm_P[drawn][:, None] + rest + by_seed * tokens[:, None], tokens)

    return Cell("real records (53 units of the quickstart), resampled", "other", num_units, draw)


def few_units(num_units: int) -> Cell:
    """Cell of few units whose effects are skewed to benefit (exponential)."""

    def draw(rng: np.random.Generator, studies: int, seeds: int, of_seeds: int, harm: float) -> Floats:
        x = 0.7 * rng.standard_normal((studies, seeds, num_units)) + 0.09 * rng.standard_normal((studies, seeds, 1))
        return x - (rng.standard_exponential((studies, 1, num_units)) - 1) + harm

    return Cell(f"{num_units} units, exponential to benefit", "other", num_units, draw)


def lengths_and_harm(correlation: float, num_units: int = 300) -> Cell:
    """Cell of NLL per token whose lengths (lognormal, sigma 1.5) are correlated with the quality loss per token."""
    sigma = 1.5

    def draw(rng: np.random.Generator, studies: int, seeds: int, of_seeds: int, harm: float) -> Floats:
        logs = sigma * rng.standard_normal((studies, num_units))
        tokens = np.ceil(np.exp(3 + logs))
        noise = math.sqrt(1 - correlation**2) * rng.standard_normal((studies, num_units))
        # weighted by length, the mean of `logs` is sigma squared: the quality loss per token is 0 in truth
        per_token = 0.05 * (correlation * (logs - sigma**2) / sigma + noise)[:, None]
        per_token = per_token + 0.004 * rng.standard_normal((studies, seeds, 1))
        per_token = per_token + 0.05 * rng.standard_normal((studies, seeds, num_units))
        return linearise((per_token + harm) * tokens[:, None], tokens)

    name = f"NLL per token, sigma 1.5, correlation of length and loss {correlation:+g}"
    return Cell(name, "other", num_units, draw)


def uneven_seeds(share: float, failing: float | None = None, num_units: int = 100) -> Cell:
    """Cell in which seeds have this share of the variance and a tail to harm: lognormal, or a share of failing runs."""
    unit, rest = math.sqrt((1 - share) * 0.6), math.sqrt((1 - share) * 0.4)

    def effects(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        if failing is not None:
            return ((rng.random(shape) < failing) - failing) / math.sqrt(failing * (1 - failing))
        return (np.exp(rng.standard_normal(shape)) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)

    def draw(rng: np.random.Generator, studies: int, seeds: int, of_seeds: int, harm: float) -> Floats:
        x = rest * math.sqrt(of_seeds * num_units) * rng.standard_normal((studies, seeds, num_units))
        x += math.sqrt(share * of_seeds) * effects(rng, (studies, seeds, 1))
        x += unit * math.sqrt(num_units) * rng.standard_normal((studies, 1, num_units))
        return x + harm

    kind = "lognormal(1)" if failing is None else f"1 run in {1 / failing:.0f} fails"
    return Cell(f"seeds {kind}, share {share:g} of the variance", "other", num_units, draw, hides=share > 0.5)


def cells() -> list[Cell]:
    """All kinds of study that are simulated."""
    other = [accuracy(rows, share) for rows in (200, 500, 2000) for share in (0.01, 0.04)]
    odd = [*map(few_units, (10, 12)), *map(lengths_and_harm, (-0.7, 0.7)), *map(uneven_seeds, (0.3, 0.7))]
    failing = [uneven_seeds(share, failing) for share in (0.3, 0.7) for failing in (0.1, 0.2)]
    common = [token_weighted(), *other, groups(), share_of_gain(), real_records()]
    return [*(normal(shares) for shares in SHARES), *common, *odd, *failing]
