"""Memory and traffic of a run on several devices, from the sizes of what each gathers."""

import io

import pytest
from rich.console import Console

from desk.planned_study import GIB, PEAK, arm_plan, study_plan
from tunewise.desk.planning.devices import bytes_moved, bytes_of_device, fewest_devices, parse_devices
from tunewise.desk.planning.fitting import what_fits
from tunewise.desk.report.terminal.devices import print_devices
from tunewise.errors import SpecError
from tunewise.records.plan import ArmPlan, Gathered, Shards

# 4 GiB of weights: 14 layers of 0.25 GiB, an embedding and a head of as much; all trained, with two moments
WEIGHTS = Gathered(
    stored=4 * GIB, whole=0, layer=GIB // 4, layer_gradient=GIB // 4, other=GIB // 4, other_gradient=GIB // 4,
    head=GIB // 4, head_gradient=GIB // 4, all=4 * GIB, trained=4 * GIB,
)  # fmt: skip
STEP = PEAK.replace(optimizer=8 * GIB)
SHARDS = Shards(training=WEIGHTS, scoring=WEIGHTS, step_data=6 * GIB, scoring_data=GIB)


def full(**changes: object) -> ArmPlan:
    """16 rows a step, all at once on one device."""
    return arm_plan(**{"step": STEP, "micro_batches": ((16, 1600),), "shards": SHARDS, **changes})


def test_one_device_needs_what_the_plan_says() -> None:
    assert bytes_of_device(full(), study_plan(), 1) == STEP.total
    assert bytes_moved(full(), study_plan(), 1) == 0


@pytest.mark.parametrize("devices", [2, 4, 8, 16])
def test_a_step_peaks_where_its_backward_pass_begins_or_ends(devices: int) -> None:
    begin = 6 / devices + 0.75  # activations, and one layer with two copies of its gradient
    end = 4 / devices + 0.75  # gradients of all layers, and one layer with two copies
    expected = (4 + 8) / devices + 0.5 + max(begin, end)
    assert bytes_of_device(full(), study_plan(), devices) == pytest.approx(expected * GIB, rel=1e-6)


def test_later_micro_batches_begin_with_gradients_in_memory_and_gather_again() -> None:
    two = full(micro_batches=((4, 400),))
    expected = (4 + 8) / 2 + 0.5 + 6 + 4 / 2 + 0.75
    assert bytes_of_device(two, study_plan(), 2) == pytest.approx(expected * GIB, rel=1e-6)
    once = bytes_moved(full(), study_plan(), 2)
    assert once == (2 * 4 + 4) * GIB // 2
    assert bytes_moved(two, study_plan(), 2) == 2 * once


def test_scoring_may_need_more_than_a_step() -> None:
    scoring = WEIGHTS.replace(stored=64 * GIB, layer=GIB)
    found = bytes_of_device(full(shards=SHARDS.replace(scoring=scoring)), study_plan(), 8)
    assert found == pytest.approx((64 / 8 + 0.25 + 2 + 1 / 8) * GIB, rel=1e-6)


def test_the_fewest_devices_are_named_unless_loading_does_not_fit() -> None:
    plan = study_plan(full=full()).replace(memory_bytes=6 * GIB)
    assert fewest_devices(full(), plan) == 4
    assert fewest_devices(full(loading=7 * GIB), plan) is None
    assert fewest_devices(full(shards=None), plan) is None
    (sentence,) = what_fits(plan)
    assert "machine.devices_per_run: 4 (see --devices)" in sentence


def test_an_arm_whose_step_is_not_known_has_no_figure() -> None:
    assert bytes_of_device(full(step=None), study_plan(), 2) is None
    assert bytes_of_device(full(evaluation=None), study_plan(), 2) is None
    assert bytes_moved(full(shards=None), study_plan(), 2) is None


def test_the_table_has_a_row_for_each_number_and_a_sentence_for_each_arm() -> None:
    arms = {"full": full(), "large": full(loading=7 * GIB), "prompts": full(shards=None), "odd": full(step=None)}
    plan = study_plan(**arms).replace(memory_bytes=6 * GIB)
    console = Console(file=io.StringIO(), width=300)
    print_devices(plan, (), console)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    print_devices(plan, (1, 4), console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "16.5 GiB, too much" in said
    assert "full fits on 4 devices (machine.devices_per_run: 4) of 6 GiB." in said
    assert "large does not fit: each device loads the whole base, 7 GiB, and has 6 GiB." in said
    assert "prompts does not fit on a device of 6 GiB, and several cannot make its runs together." in said
    assert "odd: not known, because its step could not be planned." in said


def test_numbers_of_devices_are_read_in_any_order() -> None:
    assert parse_devices("8, 1,2,2") == (1, 2, 8)


@pytest.mark.parametrize("text", ["", "0", "1,,2", "two", "-1", "1.5", "4096", "9" * 5000, "²"])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--devices: a list of numbers from 1 to 1024.*--devices 1,2,4,8"):
        parse_devices(text)
