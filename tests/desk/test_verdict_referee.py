"""Interval and word against a referee in plain Python that shares no code with the package, and against scipy."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tunewise.desk.metrics.scores import Scores
from tunewise.desk.statistics.comparison import ArmScores, decide
from tunewise.desk.statistics.intervals import probability_of_negative, two_way_interval, unit_interval
from tunewise.desk.statistics.verdict import Verdict
from tunewise.spec import Margin

REFEREE = Path(__file__).parents[1] / "referee"
MARGIN = 0.04


def read_fixture() -> dict[str, list[Scores]]:
    rows = list(csv.DictReader((REFEREE / "scores.csv").open(encoding="utf-8")))

    def run(arm: str, seed: str) -> Scores:
        of_run = sorted((r for r in rows if (r["arm"], r["seed"]) == (arm, seed)), key=lambda r: r["row"])
        none = np.full(len(of_run), -1)
        tokens = np.array([int(r["tokens"]) for r in of_run])
        return Scores(
            examples=np.array([r["row"] for r in of_run], dtype=object),
            units=np.array([r["unit"] for r in of_run], dtype=object),
            nll=np.array([float(r["nll"]) for r in of_run]),
            num_tokens=tokens,
            num_bytes=tokens,
            labels=none,
            predictions=none,
            class_log_probabilities=np.zeros((len(of_run), 0)),
        )

    arms = sorted({r["arm"] for r in rows})
    return {arm: [run(arm, seed) for seed in sorted({r["seed"] for r in rows})] for arm in arms}


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    runs = read_fixture()
    full = tuple(runs["full"])
    return {
        arm: decide(arm, ArmScores(tuple(of_arm), full, (full[0],)), "nll", Margin(absolute=MARGIN))
        for arm, of_arm in runs.items()
        if arm != "full"
    }


def test_the_referee_finds_the_same_interval_and_the_same_word(verdicts: dict[str, Verdict]) -> None:
    command = [sys.executable, "-I", str(REFEREE / "interval_and_word.py"), str(REFEREE / "scores.csv"), str(MARGIN)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["arm"] for line in found} == set(verdicts)
    assert {line["outcome"] for line in found} == {"better", "as good", "worse", "undecided"}
    for line in found:
        ours = verdicts[line["arm"]]
        assert ours.outcome == line["outcome"] == line["arm"].replace("-", " ")
        expected = (line["difference"], line["low"], line["high"])
        assert (ours.difference, ours.low, ours.high) == pytest.approx(expected, abs=1e-9)


def test_the_referee_uses_nothing_but_the_standard_library() -> None:
    lines = (REFEREE / "interval_and_word.py").read_text(encoding="utf-8").splitlines()
    imports = {line for line in lines if line.startswith(("import ", "from "))}
    assert imports == {"import csv", "import json", "import math", "import sys"}


def test_the_fixture_is_what_its_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("make_scores", REFEREE / "make_scores.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    stored = list(csv.reader((REFEREE / "scores.csv").open(encoding="utf-8")))[1:]
    assert stored == [[str(value) for value in row] for row in script.rows()]


# --- scipy


def test_where_only_one_factor_varies_scipys_t_tests_give_the_same_interval_and_p_value() -> None:
    half = np.random.default_rng(1).normal(0.3, 1, 6)
    values = np.concatenate([half, 0.6 - half])  # scipy knows no tails
    for table in (np.tile(values[:, None], (1, 7)), np.tile(values, (5, 1))):
        found, test = two_way_interval(table), stats.ttest_1samp(values, 0, alternative="less")
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
        assert probability_of_negative(table) == pytest.approx(test.pvalue, rel=1e-9)


def test_the_interval_over_units_is_scipys() -> None:
    values = np.random.default_rng(2).normal(size=(3, 40))
    found = unit_interval(values)
    expected = stats.ttest_1samp(values.mean(axis=0), 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_a_p_value_is_the_level_at_which_the_upper_end_is_zero() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(-0.1, 1, (5, 1)) * 0.1 + rng.normal(-0.1, 1, (1, 30)) + rng.normal(0, 0.3, (5, 30))
    p = probability_of_negative(x)
    assert two_way_interval(x, 1 - 2 * p).high == pytest.approx(0.0, abs=1e-12)
    p = probability_of_negative(-x)
    assert two_way_interval(x, 1 - 2 * p).low == pytest.approx(0.0, abs=1e-12)
    assert probability_of_negative(np.zeros((5, 30))) == 1.0
