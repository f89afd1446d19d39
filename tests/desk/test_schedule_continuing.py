"""Laws of the schedule: a study that was interrupted or changed goes on with what is still its own."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_study import ARMS, CLASSIFY, EXISTING, SFT, bowl, drive, ids, next_runs, study

from tunewise.desk.protocol import confirmations, schedule, trials
from tunewise.records import DataSummary


@pytest.mark.slow
@given(
    order=st.randoms(use_true_random=False),
    keep=st.floats(0, 1),
    shift=st.sampled_from([-3, 0, 3]),
    new_head=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_study_that_lost_any_of_its_records_continues_to_the_same_end(
    order: random.Random, keep: float, shift: float, new_head: bool
) -> None:
    data = CLASSIFY if new_head else SFT
    asked = study(data, arms={**ARMS, **EXISTING}, looks=[2])
    lab = bowl(asked, data, shift)
    whole = drive(asked, data, lab)
    kept = [r for r in whole if order.random() < keep]
    order.shuffle(kept)
    assert ids(drive(asked, data, lab, kept)) == ids(whole)


def test_a_study_interrupted_after_any_run_continues_to_the_same_end() -> None:
    asked = study(CLASSIFY, looks=[2])
    lab = bowl(asked, CLASSIFY, shift=2)
    whole = drive(asked, CLASSIFY, lab)
    for count in range(len(whole)):
        assert ids(drive(asked, CLASSIFY, lab, whole[:count])) == ids(whole)


def test_the_next_runs_do_not_depend_on_the_order_of_the_records() -> None:
    asked = study(SFT)
    done = drive(asked, SFT, bowl(asked, SFT))
    for count in (0, 4, 9, len(done) - 2):
        some = done[:count]
        expected = next_runs(asked, SFT, some)
        assert next_runs(asked, SFT, some[::-1]) == expected
        assert next_runs(asked, SFT, some) == expected


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (SFT, {"train": {"epochs": 3}}),
        (SFT, {"train": {"weight_decay": 0.1}}),
        (SFT.replace(inputs=SFT.inputs.replace(data="other")), {}),
        (SFT.replace(inputs=SFT.inputs.replace(base="other")), {}),
        (SFT.replace(inputs=SFT.inputs.replace(versions={"torch": "2.14"})), {}),
        (SFT.replace(precision="bf16"), {}),
        (SFT, {"seed": 1}),
        (SFT, {"checkpoint": "last"}),
    ],
)
def test_records_of_another_protocol_or_of_other_inputs_are_left_out(
    data: DataSummary, changes: dict[str, Any]
) -> None:
    before = study(SFT)
    old = drive(before, SFT, bowl(before, SFT))
    asked = study(data, **changes)
    assert schedule.current(asked, data, old) == []
    lab = bowl(asked, data)
    fresh = drive(asked, data, lab)
    assert ids(drive(asked, data, lab, old)) == ids(fresh) | ids(old)


@pytest.mark.parametrize(
    "changes",
    [
        {"tuning": {"cap": 4}},
        {"tuning": {"spacing": 2.0}},
        {"tuning": {"rates": 5}},
        {"arms": {**ARMS, "full": {"method": "full", "learning_rate": 7e-5}}},
        {"arms": {"full": {"method": "full"}}},
        {"looks": [2]},
    ],
)
def test_records_of_another_search_are_used_only_where_this_search_would_have_made_them(
    changes: dict[str, Any],
) -> None:
    before = study(SFT, tuning={"cap": 9})
    lab = bowl(before, SFT, shift=3)
    old = drive(before, SFT, lab)
    asked = study(SFT, **changes)
    fresh = drive(asked, SFT, lab)
    continued = schedule.current(asked, SFT, drive(asked, SFT, lab, old))
    assert trials.selected_rates(asked, continued) == trials.selected_rates(asked, fresh)
    for arm in asked.arms:
        assert trials.trials(continued, arm) == trials.trials(fresh, arm)
    assert {arm: ids(runs) for arm, runs in confirmations.confirmed(asked, continued).items()} == {
        arm: ids(runs) for arm, runs in confirmations.confirmed(asked, fresh).items()
    }


def test_more_seeds_keep_every_run_that_was_made() -> None:
    few, many = study(SFT, looks=[2]), study(SFT, looks=[5])
    lab = bowl(few, SFT)
    old = drive(few, SFT, lab)
    assert schedule.current(many, SFT, old) == old
    assert len(drive(many, SFT, lab, old)) == len(old) + 3 * len(ARMS)


def test_runs_made_at_another_head_rate_are_left_out() -> None:
    asked = study(CLASSIFY)
    done = drive(asked, CLASSIFY, bowl(asked, CLASSIFY))
    other = study(CLASSIFY, train={"head_learning_rate": 0.5})
    elsewhere = drive(other, CLASSIFY, bowl(other, CLASSIFY))
    assert ids(schedule.current(asked, CLASSIFY, [*done, *elsewhere])) == ids(done)


def test_a_renamed_arm_keeps_its_runs_under_the_new_name() -> None:
    before = study(SFT, arms={**ARMS, **EXISTING})
    done = drive(before, SFT, bowl(before, SFT))
    names = {"full": "everything", "lora-r8": "adapter", "lora-r16": "lora-r8", "theirs": "ours", "base": "base"}
    asked = study(SFT, arms={names[name]: arm.model_dump() for name, arm in before.arms.items()})
    data = SFT.replace(existing={"ours": "e" * 64})
    found = schedule.current(asked, data, done)
    assert next_runs(asked, data, done) == []
    assert [(r.run_id, r.spec.arm) for r in found] == [(r.run_id, names[r.spec.arm]) for r in done]


def test_the_centre_of_a_search_may_move_to_the_chosen_rate_without_a_new_run() -> None:
    asked = study(SFT)
    lab = bowl(asked, SFT, shift=0)
    done = drive(asked, SFT, lab)
    rates = trials.selected_rates(asked, done)
    moved = study(SFT, arms={name: {**arm, "learning_rate": rates[name]} for name, arm in ARMS.items()})
    assert next_runs(moved, SFT, done) == []
