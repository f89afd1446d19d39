"""Arms that are one training under two names are named before they run, with the conditions for it."""

from typing import Any

import pytest
from pydantic import ValidationError

from desk.conftest import data_summary, study_spec
from tunewise.desk.fairness import Finding, check_before
from tunewise.desk.protocol import resolve
from tunewise.spec import LoraMethod


def found(a: dict[str, Any], b: dict[str, Any], task: str = "sft", **study: Any) -> dict[str, Finding]:
    arms = {"full": {"method": "full"}, "a": {"method": "lora", **a}, "b": {"method": "lora", **b}}
    data = data_summary(task)
    resolved = resolve.resolve(study_spec(arms=arms, **study), data)
    told = {finding.id: finding for finding in check_before(resolved, data)}
    return {name: finding for name, finding in told.items() if name in ("same-training", "start-alone")}


def test_a_start_that_makes_up_for_the_scale_is_the_same_training_at_another_rate() -> None:
    finding = found({"alpha": 32}, {"alpha": 2, "init_scale": 4})["same-training"]
    assert finding.severity == "warns"
    assert finding.sentence == "a and b are the same training under 2 names. Keep one of them."
    assert "a: scale 4, init_scale 1, b: scale 0.25, init_scale 4" in finding.evidence
    assert "rates in the ratio 1 : 4" in finding.evidence
    for condition in ("no gradient is clipped (here at norm 1)", "here 0.01 in every arm", "negligible (here 1e-08)"):
        assert condition in finding.evidence
    assert "head" not in finding.evidence
    assert "start-alone" not in found({"alpha": 32}, {"alpha": 2, "init_scale": 4})


def test_with_a_new_head_the_condition_names_it() -> None:
    finding = found({"alpha": 32}, {"alpha": 2, "init_scale": 4}, task="classify")["same-training"]
    assert "the head in a parameter group of its own (it is)" in finding.evidence


def test_without_decay_that_condition_is_met() -> None:
    finding = found({"alpha": 32}, {"alpha": 2, "init_scale": 4}, train={"weight_decay": 0})["same-training"]
    assert "(here 0)" in finding.evidence


def test_rslora_of_the_same_scale_needs_no_condition() -> None:
    finding = found({"rank": 16, "alpha": 32}, {"rank": 16, "alpha": 8, "variant": "rslora"})["same-training"]
    assert finding.evidence.endswith("identical at equal learning rates")


def test_another_alpha_alone_is_another_start() -> None:
    finding = found({"alpha": 32}, {"alpha": 8})["start-alone"]
    assert finding.severity == "note"
    assert finding.evidence.endswith("initial size of A relative to a: b 0.5")
    assert list(found({"alpha": 32}, {"alpha": 8})) == ["start-alone"]


@pytest.mark.parametrize(
    "other",
    [
        {"alpha": 8, "rank": 4},
        {"alpha": 8, "targets": "qkv"},
        {"alpha": 8, "dropout": 0.1},
        {"alpha": 8, "variant": "dora"},
        {"alpha": 8, "variant": "pissa"},
    ],
)
def test_arms_that_differ_in_more_are_not_named(other: dict[str, Any]) -> None:
    assert found({"alpha": 32}, other) == {}


def test_two_arms_of_dora_are_not_named() -> None:
    assert found({"alpha": 32, "variant": "dora"}, {"alpha": 2, "init_scale": 4, "variant": "dora"}) == {}


def test_the_start_is_shown_and_refused_where_it_is_a_part_of_the_weight() -> None:
    assert LoraMethod(rank=8, init_scale=2).in_words() == "LoRA r=8, alpha=32 (scale 4), initial A × 2, all-linear"
    with pytest.raises(ValidationError, match="pissa is initialized from the weight"):
        LoraMethod(variant="pissa", init_scale=2)
