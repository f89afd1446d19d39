"""Laws of the schedule: centres, and what runs next up to the end of a study."""

import math
from collections import Counter

import pytest
from simulated_study import ARMS, CLASSIFY, EXISTING, ROWS, SFT, bowl, drive, next_runs, study

from tunewise.desk.protocol import centres, confirmations, resolve, schedule, trials
from tunewise.desk.protocol.search import bracket
from tunewise.errors import SpecError
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import FullMethod, HeadMethod, LoraMethod, RunSpec

# --- centers


def test_the_centre_of_full_comes_from_the_family_or_from_the_width() -> None:
    asked = study(SFT)
    assert centres.centre(asked, SFT, FullMethod()) == pytest.approx(5e-5 * 2)  # (2000 / 500)^0.5
    assert centres.centre(asked, SFT.replace(model_type="roberta"), FullMethod()) == 2e-5
    assert centres.centre(asked, SFT, FullMethod(learning_rate=0.3)) == 0.3


def test_the_centre_of_lora_is_10_times_fulls_or_15_in_short_runs_and_falls_with_its_effective_alpha() -> None:
    long, short = study(SFT, train={"max_steps": 100}), study(SFT, train={"max_steps": 99})
    full = centres.centre(long, SFT, FullMethod())
    for rank in (1, 8, 64):
        assert centres.centre(long, SFT, LoraMethod(rank=rank)) == pytest.approx(10 * full)
        assert centres.centre(short, SFT, LoraMethod(rank=rank)) == pytest.approx(15 * full)
    assert centres.centre(long, SFT, LoraMethod(alpha=128)) == pytest.approx(5 * full)
    assert centres.centre(long, SFT, LoraMethod(rank=16, alpha=32, variant="rslora")) == pytest.approx(5 * full)


def test_the_number_of_steps_comes_from_the_rows_or_is_given() -> None:
    assert schedule.num_steps(study(SFT, train={"epochs": 2, "batch_size": 100}), SFT) == 32
    assert schedule.num_steps(study(SFT, train={"max_steps": 5}), SFT) == 5


# --- whole studies


def test_a_study_of_prompts_begins_with_the_base_and_the_grid_of_every_arm() -> None:
    asked = study(SFT)
    first = next_runs(asked, SFT, [])
    assert [(run.arm, run.role) for run in first] == [
        ("base", "base"),
        *[(arm, "tune") for arm in ARMS for _ in range(3)],
    ]


@pytest.mark.parametrize("shift", [-4.0, -1.0, 0.0, 1.0, 4.0])
@pytest.mark.parametrize("data", [SFT, CLASSIFY], ids=["sft", "classify"])
def test_a_whole_study_confirms_every_arm_at_its_best_rate_with_the_same_fresh_seeds(
    data: DataSummary, shift: float
) -> None:
    asked = study(data, arms={**ARMS, **EXISTING})
    done = drive(asked, data, bowl(asked, data, shift))
    rates = trials.selected_rates(asked, done)
    trained = [arm for arm in asked.arms if arm != "theirs"]
    for arm in trained:
        losses = trials.trial_losses(trials.trials(done, arm))
        assert 3 <= len(losses) <= asked.tuning.cap
        best = min((loss, rate) for rate, loss in losses.items() if loss is not None)[1]
        if rates[arm] != best:
            beside = bracket(losses)
            assert beside is not None
            assert beside[0] < rates[arm] < beside[1], "the lowest point of the curve through these"
        confirmed = [r.spec for r in done if r.spec.arm == arm and r.spec.role == "confirm"]
        assert sorted(spec.seed for spec in confirmed) == list(asked.confirmation_seeds())
        assert {spec.learning_rate for spec in confirmed} == {rates[arm]}
    for spec in (r.spec for r in done):
        assert (spec.seed == asked.search_seeds()[0]) == (spec.role == "tune")
        assert ("test" in spec.score_splits) == (spec.role != "tune"), "test steers nothing"
        assert spec.inputs.general == "g", "every run but a short trial scores general text"
    assert sum(r.spec.role == "base" for r in done) == 1
    assert [len(runs) for runs in confirmations.confirmed(asked, done).values()] == [3] * len(asked.arms)


def test_samples_are_written_once_per_arm() -> None:
    asked = study(SFT, arms={**ARMS, **EXISTING})
    done = drive(asked, SFT, bowl(asked, SFT))
    with_samples = [r.spec.arm for r in done if r.spec.samples.count]
    assert sorted(with_samples) == sorted(["base", *asked.arms])


def test_a_new_head_is_tuned_first_and_its_rate_is_shared_by_every_arm() -> None:
    asked = study(CLASSIFY)
    lab = bowl(asked, CLASSIFY, shift=1.0)
    assert [(r.arm, r.role) for r in next_runs(asked, CLASSIFY, [])] == [("base", "base"), *[("head", "tune")] * 3]
    done = drive(asked, CLASSIFY, lab)
    first_other = next(i for i, r in enumerate(done) if r.spec.arm not in ("base", "head"))
    last_head_trial = max(i for i, r in enumerate(done) if (r.spec.arm, r.spec.role) == ("head", "tune"))
    assert last_head_trial < first_other
    head_rate = trials.selected_rates(asked, done)["head"]
    for spec in (r.spec for r in done if r.spec.arm != "base"):
        assert spec.head_learning_rate == (spec.learning_rate if spec.arm == "head" else head_rate)


def test_a_head_rate_that_the_study_gives_is_used_at_once_but_not_by_the_head_arm() -> None:
    asked = study(CLASSIFY, train={"head_learning_rate": 0.02})
    assert {run.arm for run in next_runs(asked, CLASSIFY, [])} == {"base", "head", *ARMS}
    for spec in (r.spec for r in drive(asked, CLASSIFY, bowl(asked, CLASSIFY)) if r.spec.arm != "base"):
        assert spec.head_learning_rate == (spec.learning_rate if spec.arm == "head" else 0.02)


def test_where_no_weight_is_new_no_arm_has_a_head_rate_and_none_waits() -> None:
    data = CLASSIFY.replace(num_new_parameters=0)
    asked = study(data)
    assert {run.arm for run in next_runs(asked, data, [])} == {"base", "head", *ARMS}
    assert {r.spec.head_learning_rate for r in drive(asked, data, bowl(asked, data))} == {None}


def test_the_head_arm_is_added_once_under_whatever_name() -> None:
    asked = study(CLASSIFY, arms={**ARMS, "linear-probe": {"method": "head"}})
    assert [name for name, arm in asked.arms.items() if isinstance(arm, HeadMethod)] == ["linear-probe"]
    assert resolve.resolve(asked, CLASSIFY) == asked
    assert asked.reference_arm == "linear-probe"
    assert study(SFT).reference_arm == "base"
    done = drive(asked, CLASSIFY, bowl(asked, CLASSIFY))
    assert trials.shared_head_rate(asked, CLASSIFY, done) == trials.selected_rates(asked, done)["linear-probe"]


def test_confirmation_comes_in_blocks_of_one_seed_with_the_arms_rotated() -> None:
    asked = study(SFT, looks=[5])
    confirmed = [r.spec for r in drive(asked, SFT, bowl(asked, SFT)) if r.spec.role == "confirm"]
    arms = list(ARMS)
    for block, seed in enumerate(asked.confirmation_seeds()):
        runs = confirmed[block * len(arms) : (block + 1) * len(arms)]
        assert [run.seed for run in runs] == [seed] * len(arms)
        turn = block % len(arms)
        assert [run.arm for run in runs] == arms[turn:] + arms[:turn]


def test_no_run_is_confirmed_before_every_search_is_over() -> None:
    asked = study(SFT)
    done = drive(asked, SFT, bowl(asked, SFT, shift=3))
    roles = [r.spec.role for r in done]
    assert roles == sorted(roles, key=["base", "tune", "confirm"].index)


# --- short trials

SHORT = {"rates": 7, "cap": 5, "search": "short"}


@pytest.mark.parametrize("data", [SFT, CLASSIFY], ids=["sft", "classify"])
def test_short_trials_run_a_whole_schedule_on_15_percent_of_the_steps_in_every_arm(data: DataSummary) -> None:
    asked = study(data, tuning=SHORT)
    done = drive(asked, data, bowl(asked, data, shift=1.0))
    steps = schedule.num_steps(asked, data)
    short = [r.spec for r in done if r.spec.role == "short"]
    assert {spec.train for spec in short} == {asked.train.replace(max_steps=math.ceil(0.15 * steps))}
    assert Counter(spec.arm for spec in short) == dict.fromkeys(asked.arms, 7)
    assert {r.spec.train for r in done if r.spec.role != "short"} == {asked.train}
    for spec in short:
        assert spec.score_splits == ("valid",)
        assert spec.inputs.general is None
        assert spec.seed == asked.search_seeds()[0]
        assert spec.samples.count == 0


def test_what_is_chosen_and_confirmed_was_measured_in_full() -> None:
    asked = study(SFT, tuning=SHORT)
    lab = bowl(asked, SFT, shift=1.0)

    def flatters_short_runs(spec: RunSpec) -> RunRecord:
        made = lab(spec)
        if spec.role != "short":
            return made
        return made.replace(evaluations=[{**e.model_dump(), "nll": e.nll - 1} for e in made.evaluations])

    done = drive(asked, SFT, flatters_short_runs)
    for arm, rate in trials.selected_rates(asked, done).items():
        in_full = trials.trial_losses(trials.trials(done, arm))
        assert len(in_full) == 3
        beside = bracket(in_full)
        assert beside is not None
        assert beside[0] < rate < beside[1]
        assert len(trials.trials(done, arm, "short")) == 7
    ids_of = {role: {r.run_id for r in done if r.spec.role == role} for role in ("short", "tune")}
    assert not ids_of["short"] & ids_of["tune"]


def test_at_seven_rates_the_short_search_takes_at_most_60_percent_of_the_steps() -> None:
    asked = study(SFT, tuning=SHORT)
    done = drive(asked, SFT, bowl(asked, SFT))
    in_full = schedule.num_steps(asked, SFT)
    trained = sum(r.spec.train.num_steps(ROWS) for r in done if r.spec.role in ("short", "tune"))
    assert trained <= 0.6 * 7 * in_full * len(ARMS)


def test_short_trials_of_another_length_are_left_out() -> None:
    before, asked = study(SFT, tuning=SHORT), study(SFT, tuning=SHORT, train={"epochs": 1})
    old = drive(before, SFT, bowl(before, SFT))
    assert schedule.current(asked, SFT, old) == []
    in_full = study(SFT, tuning={"rates": 7})
    assert not [r for r in schedule.current(in_full, SFT, old) if r.spec.role == "short"]


def test_short_trials_need_runs_long_enough_to_tell_rates_apart() -> None:
    with pytest.raises(SpecError, match="at least 40 optimizer steps, but these have 39"):
        study(SFT, tuning=SHORT, train={"max_steps": 39})
    study(SFT, tuning=SHORT, train={"max_steps": 40})
