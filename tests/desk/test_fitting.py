"""What a plan advises for an arm that does not fit."""

from desk.planned_study import GIB, PEAK, arm_plan, study_plan
from tunewise.desk.planning.fitting import what_fits
from tunewise.records.plan import Checkpointed, Speed

LESS = Checkpointed(step=PEAK.replace(activations=GIB), flops_per_token=800_000_000)
SPEED = Speed(
    source="steps",
    step_seconds=3.0,
    score_seconds_per_token=1e-3,
    fp32_score_seconds_per_token=1e-3,
    peak_above_start_bytes=None,
)


def said(memory: float, **changes: object) -> list[str]:
    arm = arm_plan(**{"evaluation": None, "largest_micro_batch": None, **changes})
    return list(what_fits(study_plan(lora=arm).replace(memory_bytes=int(memory * GIB))))


def test_nothing_is_advised_where_all_fits() -> None:
    assert said(10.5) == []
    assert said(10.4, step=None) == []


def test_the_cheapest_setting_comes_first_each_with_its_time() -> None:
    (sentence,) = said(10.0, largest_micro_batch=512, checkpointed=LESS)
    assert sentence.startswith("lora does not fit in 10 GiB. It does with train.micro_batch_tokens: 512")
    assert "(in the same time)" in sentence
    assert "train.gradient_checkpointing: true (about 1.33 times the time)" in sentence
    assert sentence.index("micro_batch") < sentence.index("checkpointing") < sentence.index("base: nf4")


def test_a_measured_speed_gives_seconds() -> None:
    (sentence,) = said(10.0, checkpointed=LESS, speed=SPEED, frozen_linear_weights=0)
    assert "train.gradient_checkpointing: true (4.0 s per step)" in sentence
    assert "nf4" not in sentence, "the arm has no frozen linear weights"


def test_what_needs_too_much_otherwise_is_not_helped_by_a_smaller_step() -> None:
    (sentence,) = said(10.0, loading=11 * GIB, largest_micro_batch=512, checkpointed=LESS, frozen_linear_weights=0)
    assert sentence.endswith("It needs a device with more memory.")
    assert "not even with gradient checkpointing (8.5 GiB at its peak)" in sentence
