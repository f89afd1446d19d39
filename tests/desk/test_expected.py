"""As many runs of as many steps as a plan expects, the schedule asks for: in every kind of study."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from simulated_study import ARMS, CLASSIFY, EXISTING, ROWS, SFT, bowl, drive, record, study

from tunewise.desk.planning.expected import Extent, Length, Runs, expected_runs, later_looks, trials_of
from tunewise.desk.protocol import schedule
from tunewise.desk.protocol.drafts import Drafts
from tunewise.records import DataSummary, RunRecord, TrainableSummary
from tunewise.spec import FullMethod, LoraMethod, RunSpec, StudySpec, TuningSpec
from tunewise.spec.expand import PLACEMENTS, arm_name
from tunewise.storage.ledger import Ledger

Found = Counter[tuple[str, str, int]]  # (arm, role, optimizer steps) -> runs

COSTS = {"qkv": 8192, "attention": 12288, "mlp": 20480, "all-linear": 32768}
PLACED = {
    arm_name("lora", placement): TrainableSummary(
        trainable_parameters=8 * cost,
        total_parameters=5_000_000,
        scale=4.0,
        num_target_modules=4,
        linear_share=1.0,
        rank_parameters=cost,
        parameter_groups=(),
    )
    for placement, cost in COSTS.items()
}
KINDS: dict[str, tuple[DataSummary, dict[str, Any]]] = {
    "plain": (SFT, {}),
    "both half-steps": (SFT, {"protocol": "fixed", "looks": [3]}),
    "without half-steps": (SFT, {"tuning": {"half_steps": False}}),
    "two rates": (SFT, {"tuning": {"rates": 2}}),
    "one rate": (SFT, {"tuning": {"rates": 1}}),
    "two search seeds": (SFT, {"tuning": {"seeds": 2}}),
    "a cap between the half-steps": (SFT, {"tuning": {"cap": 4}, "protocol": "fixed", "looks": [3]}),
    "rates of its own": (SFT, {"arms": {**ARMS, "fixed": {"method": "lora", "rank": 2, "rates": [1e-4, 1e-3]}}}),
    "short trials": (SFT, {"tuning": {"search": "short", "rates": 7, "cap": 5}}),
    "a head": (CLASSIFY, {}),
    "a head and short trials": (CLASSIFY, {"tuning": {"search": "short", "rates": 7, "cap": 5}}),
    "trained elsewhere": (SFT, {"arms": {**ARMS, **EXISTING}}),
    "open targets": (SFT.replace(arms=PLACED), {"arms": {"lora": {"method": "lora", "targets": "auto", "rank": 8}}}),
}


def expected(asked: StudySpec, data: DataSummary, extent: Extent) -> Found:
    length = Length(schedule.num_steps(asked, data), has_general=data.task != "classify")
    return as_counted(expected_runs(asked, length, extent))


def as_counted(runs: Any) -> Found:
    found: Found = Counter()
    for of in runs:
        found[of.arm, of.role, of.num_steps] += of.num_runs
    return found


def counted(records: list[RunRecord], num_rows: int = ROWS) -> Found:
    return Counter((r.spec.arm, r.spec.role, _steps(r, num_rows)) for r in records)


def _steps(record: RunRecord, num_rows: int) -> int:
    return 0 if record.spec.learning_rate is None else record.spec.train.num_steps(num_rows)


def lower_is_better(spec: RunSpec) -> RunRecord:
    """A lab in which no rate is low enough, so that a search goes on as long as it may."""
    return record(spec, spec.learning_rate)


@pytest.mark.parametrize(("data", "changes"), KINDS.values(), ids=KINDS)
def test_a_study_whose_first_rates_are_right_takes_the_least_and_one_whose_rates_never_are_the_most(
    data: DataSummary, changes: dict[str, Any]
) -> None:
    asked = study(data, **changes)
    assert counted(drive(asked, data, bowl(asked, data))) == expected(asked, data, "least")
    assert counted(drive(asked, data, lower_is_better)) == expected(asked, data, "cap")
    if "lora" in changes.get("arms", {}):
        assert {arm_name("lora", placement) for placement in PLACEMENTS} == set(asked.arms)


def test_a_second_look_adds_no_more_than_every_arm_going_on_to_it() -> None:
    asked = study(SFT, looks=[2, 4], arms={**ARMS, **EXISTING})
    length = Length(schedule.num_steps(asked, SFT), has_general=True)
    first, more = expected(asked, SFT, "least"), as_counted(later_looks(asked, length))
    lab = bowl(asked, SFT)
    assert counted(drive(asked, SFT, lab)) == first
    assert counted(drive(asked, SFT, lab, undecided=lambda records: list(asked.arms))) == first + more
    some = counted(drive(asked, SFT, lab, undecided=lambda records: ["lora-r8"]))
    assert first < some < first + more
    assert not list(later_looks(study(SFT, looks=[4]), length))


def test_a_rank_to_be_found_is_searched_twice_and_full_that_is_cut_down_trains_no_more(
    make_study: Callable[..., Ledger],
) -> None:
    arms = {"full": {"method": "full", "extract": [4]}, "lora": {"method": "lora", "rank": "auto", "max_rank": 32}}
    ledger = make_study(study={"arms": arms})
    rows = ledger.data_summary().split("train").rows
    assert counted(ledger.records(), rows) == expected(ledger.study(), ledger.data_summary(), "least")


def test_an_arm_that_may_become_another_one_ends_with_its_first_search_at_the_least() -> None:
    asked = study(SFT, arms={"four": {"method": "lora", "rank": 4}, "lora": {"method": "lora", "rank": "auto"}})
    least, most = expected(asked, SFT, "least"), expected(asked, SFT, "cap")
    steps = schedule.num_steps(asked, SFT)
    assert least["lora", "tune", steps] == 3
    assert least["lora", "confirm", steps] == 0
    assert most["lora", "tune", steps] == 14
    assert most["lora", "confirm", steps] == 3


def test_rates_of_its_own_search_seeds_and_a_rank_to_be_found_change_the_number_of_trials() -> None:
    asked = study(SFT).replace(tuning=TuningSpec(rates=3, cap=4, seeds=2).model_dump())
    assert trials_of(asked, FullMethod(), "least") == (6, 0)
    fixed = asked.replace(protocol="fixed")
    assert trials_of(fixed, FullMethod(), "least") == (8, 0), "three rates, and as many half-steps as the cap allows"
    assert trials_of(asked, FullMethod(rates=(1e-4, 1e-3)), "cap") == (4, 0)
    assert trials_of(asked, LoraMethod(rank="auto"), "cap") == (16, 0)


def test_what_a_run_is_expected_to_score_is_what_its_spec_asks_for() -> None:
    """Evaluations of 200 steps are after 50, 100, 150, 200; four points of the curve are 0, 50, 100, 150, 200."""
    asked = study(SFT, forgetting={"tokens": 9, "points": 4}, train={"evaluations": 4})
    draft, steps = Drafts(asked, SFT), schedule.num_steps(asked, SFT)
    runs = {of.role: of for of in expected_runs(asked, Length(steps, True), "least") if of.arm in ("full", "base")}
    confirm = draft.confirm("full", 1e-3, None, 1)
    assert steps == 200
    assert runs["confirm"] == Runs("full", "confirm", 3, 200, 5, 5, (confirm.score_splits[1], "general"), pauses=3)
    assert runs["tune"] == Runs("full", "tune", 3, 200, 4, 1, pauses=3)
    assert runs["base"] == Runs("base", "base", 1, 0, 0, 0, (*draft.bases()[0].score_splits, "general"))
