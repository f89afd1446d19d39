"""Laws of selection: NLL, or accuracy with ties that the rows themselves cannot tell apart."""

import math
import random

import pytest

from tunewise.records import Evaluation
from tunewise.records.selection import is_tied, most_accurate, selection_losses, takes_over


def of_rows(right: str, nll: float, step: int = 1) -> Evaluation:
    return Evaluation(step=step, nll=nll, accuracy=right.count("1") / len(right), right=right)


def test_language_models_are_selected_by_nll_alone() -> None:
    found = {
        1e-3: Evaluation(step=1, nll=2.0, accuracy=None),
        3e-3: Evaluation(step=1, nll=1.9, accuracy=None),
        1.0: None,
    }
    assert selection_losses(found) == {1e-3: 2.0, 3e-3: 1.9, 1.0: None}


def test_one_row_more_does_not_choose_a_rate_whose_nll_is_worse() -> None:
    few = of_rows("1" * 90 + "0" * 10, nll=0.3)
    more = of_rows("1" * 91 + "0" * 9, nll=1.3)
    losses = selection_losses({1e-4: few, 1e-3: more})
    assert losses[1e-4] < losses[1e-3]


def test_rows_beyond_one_paired_standard_error_choose_whatever_the_nll() -> None:
    best = of_rows("1" * 100, nll=9.0)
    worse = of_rows("1" * 90 + "0" * 10, nll=0.1)  # 10 rows of 100: error 3 points
    losses = selection_losses({1e-4: worse, 1e-3: best})
    assert losses[1e-3] < losses[1e-4]


def test_the_standard_error_is_that_of_the_paired_differences() -> None:
    rng = random.Random(0)
    for _ in range(200):
        a, b = ("".join(rng.choice("0111") for _ in range(60)) for _ in range(2))
        differences = [int(x) - int(y) for x, y in zip(a, b, strict=True)]
        mean = sum(differences) / 60
        variance = sum((d - mean) ** 2 for d in differences) / 59
        expected = mean <= math.sqrt(variance / 60)
        assert is_tied(of_rows(a, 1.0), of_rows(b, 1.0)) == expected


def test_the_same_accuracy_on_other_rows_is_tied_and_one_row_of_a_thousand_alone_is_not_beyond_its_error() -> None:
    assert is_tied(of_rows("1100", 1.0), of_rows("0011", 2.0))
    assert is_tied(of_rows("1" * 1000, 1.0), of_rows("0" + "1" * 999, 1.0))  # 1 row, error sqrt(1) row
    assert not is_tied(of_rows("1" * 1000, 1.0), of_rows("00" + "1" * 998, 1.0))  # 2 rows, error sqrt(2) rows


def test_a_later_checkpoint_takes_over_where_it_is_tied_with_a_lower_nll_or_more_accurate() -> None:
    first = of_rows("1" * 80 + "0" * 20, nll=0.50, step=1)
    tied = of_rows("1" * 79 + "0" * 21, nll=0.40, step=2)
    assert takes_over([first, tied], first)
    assert not takes_over([first, tied.replace(nll=0.6)], first)
    better = of_rows("1" * 95 + "0" * 5, nll=2.0, step=3)
    assert takes_over([first, tied, better], tied)


def test_ties_do_not_drift_away_from_the_most_accurate_checkpoint() -> None:
    """Each is tied with the one before it and has a lower NLL, but the last is far below the first."""
    rows = ["1" * (90 - 2 * i) + "0" * (10 + 2 * i) for i in range(8)]
    evaluations = [of_rows(right, nll=1.0 - 0.1 * i, step=i) for i, right in enumerate(rows)]
    selected = evaluations[0]
    for i in range(1, len(evaluations)):
        if takes_over(evaluations[: i + 1], selected):
            selected = evaluations[i]
    assert is_tied(most_accurate(evaluations), selected)
    assert selected.accuracy == pytest.approx(0.90)


def test_of_tied_rates_all_have_the_error_of_the_best_so_that_noise_makes_no_headroom() -> None:
    found = {
        1e-4: of_rows("1" * 90 + "0" * 10, nll=0.30),
        3e-4: of_rows("1" * 91 + "0" * 9, nll=0.35),
        9e-4: of_rows("1" * 60 + "0" * 40, nll=0.90),
    }
    losses = selection_losses(found)
    assert losses[1e-4] == pytest.approx(0.09, abs=1e-6)
    assert losses[3e-4] == pytest.approx(0.09, abs=1e-6)
    assert losses[9e-4] == pytest.approx(0.40, abs=1e-6)
