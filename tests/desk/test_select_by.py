"""`select_by: primary`: what users are judged by chooses rates and checkpoints, in the units of its margin."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from simulated_study import SFT, drive, study

from tunewise.desk.metrics.metrics import selection_metric
from tunewise.desk.protocol import centres, trials
from tunewise.desk.report.charts.axes import shown_value, valid_metric
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.study.declarations import declarations
from tunewise.records import Evaluation, RunRecord
from tunewise.spec import RunSpec, StudySpec
from tunewise.storage.ledger import Ledger

TEXTS: dict[str, Any] = {"metrics": [{"name": "exact_match"}], "primary": "exact_match", "margin": "2pp"}
BY_TEXTS = {**TEXTS, "select_by": "primary"}
NUM_ROWS = 400


def lab(asked: StudySpec) -> Callable[[RunSpec], RunRecord]:
    """NLL is lowest at the center, and most texts are right one place above it."""

    def run(spec: RunSpec) -> RunRecord:
        places = 0.0
        if spec.learning_rate is not None:
            middle = centres.centre(asked, SFT, asked.arms[spec.arm])
            places = math.log(spec.learning_rate / middle, asked.tuning.spacing)
        right = round(NUM_ROWS * (0.8 - 0.1 * (places - 1) ** 2))
        found = Evaluation(step=9, nll=2 + 0.1 * places**2, accuracy=None)
        if spec.select_by is not None:
            bits = ("1" * max(0, right)).ljust(NUM_ROWS, "0")
            found = found.replace(accuracy=bits.count("1") / NUM_ROWS, right=bits)
        evaluations = (found.replace(step=0),) if spec.role == "base" else (found,)
        selected = None if spec.learning_rate is None else 9
        return RunRecord(run_id=spec.run_id, spec=spec, status="done", evaluations=evaluations, selected_step=selected)

    return run


def places_chosen(asked: StudySpec) -> dict[str, float]:
    """Where each arm's chosen rate is on its grid."""
    rates = trials.selected_rates(asked, drive(asked, SFT, lab(asked)))
    return {
        arm: round(math.log(rate / centres.centre(asked, SFT, asked.arms[arm]), asked.tuning.spacing), 1)
        for arm, rate in rates.items()
    }


def test_rates_are_chosen_by_the_share_of_right_texts() -> None:
    by_loss, by_texts = study(SFT, **TEXTS), study(SFT, **BY_TEXTS)
    assert set(places_chosen(by_loss).values()) == {0.0}
    assert set(places_chosen(by_texts).values()) == {1.0}
    assert (selection_metric(by_loss), selection_metric(by_texts)) == ("nll", "exact_match")


def test_every_run_that_is_selected_or_gives_the_reference_says_how_it_is_judged() -> None:
    asked = study(SFT, **BY_TEXTS)
    records = drive(asked, SFT, lab(asked))
    assert {r.spec.role for r in records} == {"base", "tune", "confirm"}
    assert all(r.spec.select_by == asked.metrics[0] for r in records)
    plain = study(SFT, **TEXTS)
    assert all(r.spec.select_by is None for r in drive(plain, SFT, lab(plain)))


def test_the_search_neglects_a_quarter_of_the_margin_of_the_texts() -> None:
    asked = study(SFT, **BY_TEXTS)
    found = trials.tolerance(asked, [], "lora-r8")
    assert found is not None
    assert found.absolute == pytest.approx(0.25 * 0.02)
    of_loss = trials.tolerance(study(SFT, **TEXTS), [], "lora-r8")
    assert of_loss is not None
    assert of_loss.share_of_gain < math.inf, "NLL's default margin has a share of the gain"
    share = trials.tolerance(study(SFT, **{**BY_TEXTS, "margin": "5% of gain"}), [lab(asked)(_base(asked))], "lora-r8")
    assert share is not None
    assert share.reference == pytest.approx(1 - 0.7, abs=1e-5), "what the base writes"


def _base(asked: StudySpec) -> RunSpec:
    (first, *_) = drive(asked, SFT, lab(asked))
    return first.spec


def test_selection_by_texts_is_declared() -> None:
    assert declarations(study(SFT, **BY_TEXTS), SFT)["select_by"] == "primary"
    assert "select_by" not in declarations(study(SFT, **TEXTS), SFT)


def test_the_report_names_the_metric_that_selected(make_study: Callable[..., Ledger]) -> None:
    plain = build_report(make_study())
    assert (plain.study.selected_by, valid_metric(plain)) == (None, "nll")
    assert shown_value("nll", 2.0, 0.5) == 2.0
    assert shown_value("exact_match", 2.0, 0.5) == 50.0
    asked = plain.study.replace(selected_by="exact_match")
    assert valid_metric(plain.replace(study=asked)) == "exact_match"
