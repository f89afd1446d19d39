"""A referee: the interval and the word recomputed from scores.csv with nothing but Python's standard library.

python -I tests/referee/interval_and_word.py SCORES.csv MARGIN     prints one JSON object per arm, at 95 %
"""

import csv
import json
import math
import sys


def t_quantile(p, freedom):
    """Where Student's distribution reaches p > 0.5: bisection on Simpson's rule over the density."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)

    def below(t, n=2000):
        h = t / n
        f = [(1 + (i * h) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(n + 1)]
        return 0.5 + scale * h / 3 * (f[0] + 4 * sum(f[1:n:2]) + 2 * sum(f[2:n:2]) + f[n])

    low, high = 0.0, 200.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < p else (low, middle)
    return low


def interval(x):
    """Mean, low and high of a table x[seed][unit], for new seeds and new units."""
    seeds, units = len(x), len(x[0])
    mean = sum(map(sum, x)) / (seeds * units)
    of_seed = [sum(row) / units for row in x]
    of_unit = [sum(row[i] for row in x) / seeds for i in range(units)]
    ms_seed = units * sum((m - mean) ** 2 for m in of_seed) / (seeds - 1)
    ms_unit = seeds * sum((m - mean) ** 2 for m in of_unit) / (units - 1)
    rest = sum((x[s][i] - of_seed[s] - of_unit[i] + mean) ** 2 for s in range(seeds) for i in range(units))
    freedom = (seeds - 1) * (units - 1)
    ms_rest = rest / freedom
    a, b = max(ms_seed, ms_rest), max(ms_unit, ms_rest)
    parts = a**2 / (seeds - 1) + b**2 / (units - 1) + ms_rest**2 / freedom
    freedom = min((a + b - ms_rest) ** 2 / parts, 4 * (seeds - 1) * (a / ms_rest) ** 2)
    error, t = math.sqrt((a + b - ms_rest) / (seeds * units)), t_quantile(0.975, freedom)
    bend = (1.959963984540054**2 - 1) / 6
    third = sum((m - mean) ** 3 for m in of_unit)
    skew = third / (units * (units - 1) * (units - 2)) * (0.5 + 2 * bend)
    for s, i in ((s, i) for s in range(seeds) for i in range(units)):
        residual = x[s][i] - of_seed[s] - of_unit[i] + mean
        tukey = (of_seed[s] - mean) * (of_unit[i] - mean) * residual / ((seeds - 1) * (units - 1) * seeds * units)
        skew += tukey * (2 + 6 * bend)
    skewness = third / units / (sum((m - mean) ** 2 for m in of_unit) / units) ** 1.5
    below, above = error * (t + max(-skew / error**3, 0)), error * (t + max(skew / error**3, 0))
    stretch = min(max(70 * skewness**2 / units, 1), 2)  # a tail too long for the correction: that end reaches further
    below, above = (below, stretch * above) if skewness > 0 else (stretch * below, above)
    return mean, mean - below, mean + above


def main(path, margin):
    sums, tokens = {}, {}
    with open(path, newline="", encoding="utf-8") as file:  # noqa: PTH123 - as plain as can be
        for r in csv.DictReader(file):
            key = r["arm"], int(r["seed"]), r["unit"]
            sums[key] = sums.get(key, 0.0) + float(r["nll"])
            tokens[key] = tokens.get(key, 0) + int(r["tokens"])
    arms, seeds, units = (sorted({key[i] for key in sums}) for i in range(3))
    size = [tokens["full", seeds[0], u] for u in units]
    for arm in (a for a in arms if a != "full"):
        d = [[sums[arm, s, u] - sums["full", s, u] for u in units] for s in seeds]
        ratio = sum(map(sum, d)) / (len(seeds) * sum(size))
        x = [[ratio + (v - ratio * t) * len(units) / sum(size) for v, t in zip(row, size, strict=True)] for row in d]
        mean, low, high = interval(x)
        word = "better" if high < 0 else "as good" if high < margin else "worse" if low > margin else "undecided"
        print(json.dumps({"arm": arm, "difference": mean, "low": low, "high": high, "outcome": word}))


main(sys.argv[1], float(sys.argv[2]))
