"""Laws of the schedule: existing models, runs that diverge, runs that are lost."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from simulated_study import ARMS, CLASSIFY, EXISTING, SFT, Lab, bowl, drive, ids, next_runs, record, study

from tunewise.desk.protocol import centres, confirmations, schedule
from tunewise.desk.protocol import trials as trials_module
from tunewise.desk.protocol.search import grid_rate
from tunewise.records import Evaluation, RunRecord
from tunewise.spec import ExistingMethod, RunSpec, StudySpec


def test_an_existing_model_is_scored_once_and_stands_for_every_seed() -> None:
    asked = study(SFT, arms={**ARMS, **EXISTING}, looks=[4])
    done = drive(asked, SFT, bowl(asked, SFT))
    runs = [r for r in done if isinstance(r.spec.method, ExistingMethod)]
    assert len(runs) == 1
    assert runs[0].spec.inputs.existing == "e" * 64
    assert runs[0].spec.learning_rate is None
    assert confirmations.confirmed(asked, done)["theirs"] == runs * 4
    assert trials_module.is_bracketed(asked, done, "theirs")


def test_an_existing_model_whose_weights_changed_is_scored_again() -> None:
    asked = study(SFT, arms={**ARMS, **EXISTING})
    done = drive(asked, SFT, bowl(asked, SFT))
    changed = SFT.replace(existing={"theirs": "f" * 64})
    assert [run.arm for run in next_runs(asked, changed, done)] == ["theirs"]


def test_a_study_of_existing_models_alone_is_base_and_models() -> None:
    asked = study(SFT, arms=EXISTING)
    done = drive(asked, SFT, bowl(asked, SFT))
    assert [r.spec.arm for r in done] == ["base", "theirs"]


def with_status(done: Sequence[RunRecord], arm: str, seed: int, **changes: Any) -> list[RunRecord]:
    chosen = {"confirm"}
    return [
        r.replace(**changes) if (r.spec.arm, r.spec.seed) == (arm, seed) and r.spec.role in chosen else r for r in done
    ]


def test_a_seed_that_one_arm_lost_is_left_out_of_all_arms() -> None:
    asked = study(SFT, arms={**ARMS, **EXISTING})
    lost = asked.confirmation_seeds()[1]
    done = with_status(drive(asked, SFT, bowl(asked, SFT)), "lora-r8", lost, status="failed", attempts=2)
    kept = [seed for seed in asked.confirmation_seeds() if seed != lost]
    found = confirmations.confirmed(asked, done)
    assert list(found) == [*ARMS, "theirs"]
    assert all([r.spec.seed for r in found[arm]] == kept for arm in ARMS)
    assert len(found["theirs"]) == len(kept)
    assert next_runs(asked, SFT, done) == [], "a run that was lost twice is given up"


def test_a_run_that_the_machine_lost_is_made_once_more_with_its_seed_and_then_given_up() -> None:
    asked = study(SFT)
    lab = bowl(asked, SFT)
    seed = asked.confirmation_seeds()[1]
    tries: list[RunSpec] = []

    def loses(times: int) -> list[RunRecord]:
        def run(spec: RunSpec) -> RunRecord:
            tries.append(spec)
            is_it = (spec.arm, spec.role, spec.seed) == ("lora-r8", "confirm", seed)
            is_lost = is_it and tries.count(spec) <= times
            return record(spec, None, "failed") if is_lost else lab(spec)

        tries.clear()
        return drive(asked, SFT, run)

    once = confirmations.confirmed(asked, loses(1))
    assert len(tries) == len({spec.run_id for spec in tries}) + 1
    assert tries[-1].seed == seed
    assert [len(runs) for runs in once.values()] == [3, 3, 3]
    for times in (2, 9):
        lost = loses(times)
        assert len(tries) == len(lost) + 1
        assert [r.attempts for r in lost if r.status == "failed"] == [2]
        assert [len(runs) for runs in confirmations.confirmed(asked, lost).values()] == [2, 2, 2]


def test_a_lost_trial_is_repeated_before_the_search_goes_on() -> None:
    asked = study(SFT)
    lab = bowl(asked, SFT)
    lost: set[str] = set()

    def run(spec: RunSpec) -> RunRecord:
        if spec.role == "tune" and spec.run_id not in lost:
            lost.add(spec.run_id)
            return record(spec, None, "failed")
        return lab(spec)

    assert ids(drive(asked, SFT, run)) == ids(drive(asked, SFT, lab))


def test_a_diverged_confirmation_stays_in() -> None:
    asked = study(SFT)
    seed = asked.confirmation_seeds()[0]
    done = with_status(drive(asked, SFT, bowl(asked, SFT)), "full", seed, status="diverged")
    assert [len(runs) for runs in confirmations.confirmed(asked, done).values()] == [3, 3, 3]


def test_confirmations_at_a_rate_that_is_no_longer_chosen_are_left_out() -> None:
    asked = study(SFT)
    lab = bowl(asked, SFT)
    done = drive(asked, SFT, lab)
    rates = trials_module.selected_rates(asked, done)
    worse = [
        record(r.spec, 99.0) if (r.spec.role, r.spec.learning_rate) == ("tune", rates["full"]) else r for r in done
    ]
    continued = schedule.current(asked, SFT, drive(asked, SFT, lab, worse))
    chosen = trials_module.selected_rates(asked, continued)["full"]
    assert chosen != rates["full"]
    assert {r.spec.learning_rate for r in confirmations.confirmed(asked, continued)["full"]} == {chosen}


def test_an_arm_whose_every_trial_diverged_is_never_confirmed_and_the_study_ends() -> None:
    asked = study(SFT)
    lab = bowl(asked, SFT)

    def broken(spec: RunSpec) -> RunRecord:
        return record(spec, None, "diverged") if spec.arm == "full" else lab(spec)

    done = drive(asked, SFT, broken)
    assert len(trials_module.trials(done, "full")) == asked.tuning.cap
    assert set(confirmations.confirmed(asked, done)) == {"lora-r8", "lora-r16"}
    assert not trials_module.is_bracketed(asked, done, "full")


def test_a_head_whose_every_trial_diverged_does_not_stop_the_study() -> None:
    asked = study(CLASSIFY)
    lab = bowl(asked, CLASSIFY)
    done = drive(asked, CLASSIFY, lambda spec: record(spec, None, "diverged") if spec.arm == "head" else lab(spec))
    assert set(confirmations.confirmed(asked, done)) == set(ARMS)


def test_a_diverged_trial_is_never_chosen_whatever_it_reached_before() -> None:
    asked = study(SFT)
    lab = bowl(asked, SFT)
    middle = grid_rate(asked.tuning, centres.centre(asked, SFT, asked.arms["full"]), 0)

    def breaks_late(spec: RunSpec) -> RunRecord:
        is_it = (spec.arm, spec.learning_rate) == ("full", middle)
        return record(spec, 0.001, "diverged") if is_it else lab(spec)

    assert trials_module.selected_rates(asked, drive(asked, SFT, breaks_late))["full"] != middle


def test_of_two_rates_as_good_the_lower_is_chosen() -> None:
    asked = study(SFT)
    done = drive(asked, SFT, lambda spec: record(spec, None if spec.learning_rate is None else 2.0))
    for arm, rate in trials_module.selected_rates(asked, done).items():
        assert rate == min(trial.rate for trial in trials_module.trials(done, arm))


def test_accuracy_selects_before_the_loss_and_the_loss_decides_ties() -> None:
    best = Evaluation(step=1, nll=9.0, accuracy=0.81)
    tied = Evaluation(step=2, nll=0.5, accuracy=0.80)
    worse = Evaluation(step=3, nll=0.6, accuracy=0.80)
    assert best.selection_loss < tied.selection_loss < worse.selection_loss


def test_the_selected_evaluation_is_the_one_that_the_run_selected_not_the_last() -> None:
    asked = study(SFT)
    spec = next_runs(asked, SFT, [])[1]
    chosen = record(spec, 2.0).replace(selected_step=5)
    assert trials_module.selection_loss(chosen) == 11.0
    assert trials_module.selection_loss(record(spec, None, "diverged")) == math.inf


def test_a_failed_trial_is_told_from_a_diverged_one_and_closes_no_edge() -> None:
    asked = study(SFT, tuning={"half_steps": False})
    lab = bowl(asked, SFT)
    highest = grid_rate(asked.tuning, centres.centre(asked, SFT, asked.arms["full"]), 1)

    def loses(status: str) -> list[RunRecord]:
        def run(spec: RunSpec) -> RunRecord:
            return record(spec, None, status) if (spec.arm, spec.learning_rate) == ("full", highest) else lab(spec)

        return drive(asked, SFT, run)

    diverged, failed = loses("diverged"), loses("failed")
    assert trials_module.trials(diverged, "full")[-1] == trials_module.Trial(highest, None, "diverged", 1)
    assert trials_module.trials(failed, "full")[-1] == trials_module.Trial(highest, None, "failed", 1)
    assert trials_module.is_bracketed(asked, diverged, "full")
    assert not trials_module.is_bracketed(asked, failed, "full")
    assert len(trials_module.measured_losses(trials_module.trials(failed, "full"))) == 2


# --- an arm that does not fit in memory


def lacks_memory(asked: StudySpec, arm: str, role: str) -> Lab:
    """A lab whose memory is too small for the runs of one arm in one role."""
    lab = bowl(asked, SFT)
    return lambda spec: record(spec, None, "out-of-memory") if (spec.arm, spec.role) == (arm, role) else lab(spec)


@pytest.mark.parametrize("role", ["tune", "confirm"])
def test_an_arm_that_does_not_fit_takes_no_part_and_the_study_goes_on_without_it(role: str) -> None:
    asked = study(SFT)
    done = drive(asked, SFT, lacks_memory(asked, "lora-r16", role))
    found = confirmations.confirmed(asked, done)
    assert {arm: len(runs) for arm, runs in found.items()} == {"full": 3, "lora-r8": 3}
    tried = [r for r in done if r.spec.arm == "lora-r16"]
    assert [r.status for r in tried].count("out-of-memory") >= 1
    assert len([r for r in tried if r.spec.role == "tune"]) <= 5, "no rate is tried beyond those already asked for"
    assert trials_module.selected_rates(asked, done).keys() == {"full", "lora-r8"}
    assert not trials_module.fits(done, "lora-r16")


def test_without_memory_for_full_the_other_arms_are_confirmed_all_the_same() -> None:
    asked = study(SFT)
    found = confirmations.confirmed(asked, drive(asked, SFT, lacks_memory(asked, "full", "tune")))
    assert {arm: len(runs) for arm, runs in found.items()} == {"lora-r8": 3, "lora-r16": 3}


def test_without_memory_for_the_head_alone_the_study_still_ends() -> None:
    asked = study(CLASSIFY)
    lab = bowl(asked, CLASSIFY)
    done = drive(asked, CLASSIFY, lambda spec: record(spec, None, "out-of-memory") if spec.arm == "head" else lab(spec))
    assert confirmations.confirmed(asked, done).keys() == set(ARMS)


# --- several search seeds


def test_with_three_search_seeds_every_trial_runs_three_times_and_their_mean_decides() -> None:
    """Each seed has another best rate: 1 place below the centre, at it, 1 place above. Their mean is best at it."""
    asked = study(SFT, tuning={"seeds": 3, "cap": 3, "half_steps": False})
    seeds = asked.search_seeds()
    assert len(set(seeds)) == 3

    def lab(spec: RunSpec) -> RunRecord:
        if spec.learning_rate is None:
            return record(spec, None)
        places = math.log(spec.learning_rate / centres.centre(asked, SFT, asked.arms[spec.arm]), 3)
        shift = seeds.index(spec.seed) - 1 if spec.role == "tune" else 0
        return record(spec, 2 + 0.1 * (places - shift) ** 2)

    done = drive(asked, SFT, lab)
    for arm in ARMS:
        runs = [r for r in done if r.spec.arm == arm and r.spec.role == "tune"]
        assert len(runs) == 9
        assert {r.spec.seed for r in runs} == set(seeds)
        trials = trials_module.trials(done, arm)
        assert [trial.num_seeds for trial in trials] == [3, 3, 3]
        middle = trials[1]
        assert middle.evaluation is not None
        assert middle.evaluation.nll == pytest.approx(2 + 0.1 * (1 + 0 + 1) / 3)
        assert trials_module.selected_rates(asked, done)[arm] == middle.rate


def test_a_trial_with_some_of_its_seeds_is_not_decided_on_and_no_run_of_it_is_made_twice() -> None:
    asked = study(SFT, tuning={"seeds": 2})
    whole = drive(asked, SFT, bowl(asked, SFT))
    for left_out in range(0, len(whole), 7):
        rest = [r for i, r in enumerate(whole) if i != left_out]
        assert whole[left_out].run_id in {run.run_id for run in next_runs(asked, SFT, rest)}
        assert ids(drive(asked, SFT, bowl(asked, SFT), rest)) == ids(whole)


def test_one_diverged_seed_makes_the_rate_a_diverged_one() -> None:
    asked = study(SFT, tuning={"seeds": 2})
    lab, middle = bowl(asked, SFT), centres.centre(asked, SFT, asked.arms["full"])
    top = grid_rate(asked.tuning, middle, 1)

    def run(spec: RunSpec) -> RunRecord:
        is_it = (spec.arm, spec.role, spec.learning_rate) == ("full", "tune", top)
        return record(spec, None, "diverged") if is_it and spec.seed == asked.search_seeds()[1] else lab(spec)

    found = trials_module.trials(drive(asked, SFT, run), "full")
    assert {trial.rate: trial.status for trial in found}[top] == "diverged"
    assert trials_module.trial_losses(found)[top] is None
