"""Laws of the schedule: what runs next, whatever ran before, up to the end of a study."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewise.desk import schedule
from tunewise.records import DataSummary, Evaluation, RunRecord, SplitSummary
from tunewise.spec import ExistingMethod, FullMethod, HeadMethod, Inputs, LoraMethod, RunSpec, StudySpec, TuningSpec

ROWS = 1600
ARMS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora-r8": {"method": "lora", "rank": 8, "targets": "qkv"},
    "lora-r16": {"method": "lora", "rank": 16},
}
EXISTING = {"theirs": {"method": "existing", "path": "adapter"}}
Lab = Callable[[RunSpec], RunRecord]


def data_summary(task: str = "sft", **changes: Any) -> DataSummary:
    split = SplitSummary(
        split="train",
        source="train.jsonl",
        rows_read=ROWS,
        rows=ROWS,
        units=ROWS,
        tokens=1,
        supervised_tokens=1,
        truncated_rows=0,
        truncated_tokens=0,
        duplicates_dropped=0,
    )
    inputs = Inputs(base="b", tokenizer="t", data="d", general="g", existing=None, versions={"torch": "2.13"})
    content: dict[str, Any] = {
        "key": "k",
        "task": task,
        "labels": ("a", "b") if task == "classify" else (),
        "splits": (split.model_dump(),),
        "example_prompt": "",
        "example_supervised": "",
        "notes": (),
        "near_duplicates": 0,
        "inputs": inputs.model_dump(),
        "existing": {"theirs": "e" * 64},
        "model_type": "gpt2",
        "hidden_size": 500,
        "num_new_parameters": 7 if task == "classify" else 0,
        "arms": {},
        "device": "cpu",
        "precision": "fp32",
        "threads": 2,
    }
    return DataSummary.model_validate({**content, **changes})


def study(data: DataSummary, **changes: Any) -> StudySpec:
    """A resolved study."""
    content = {"name": "s", "data": {"train": "train.jsonl"}, "arms": ARMS, "looks": [3], **changes}
    return schedule.resolve(StudySpec.model_validate(content), data)


SFT, CLASSIFY = data_summary("sft"), data_summary("classify")


def record(spec: RunSpec, loss: float | None, status: str = "done") -> RunRecord:
    """A finished run; `loss` None: nothing was evaluated."""
    evaluations = (
        ()
        if loss is None
        else (Evaluation(step=5, nll=loss + 9, accuracy=None), Evaluation(step=9, nll=loss, accuracy=None))
    )
    return RunRecord(
        run_id=spec.run_id,
        spec=spec,
        status=status,
        evaluations=evaluations,
        selected_step=None if loss is None else 9,
    )


def bowl(asked: StudySpec, data: DataSummary, shift: float = 0.0) -> Lab:
    """A lab in which every arm is best `shift` grid places above its centre and diverges 2.5 places above that."""

    def run(spec: RunSpec) -> RunRecord:
        if spec.learning_rate is None:
            return record(spec, None)
        middle = schedule.centre(asked, data, asked.arms[spec.arm])
        places = math.log(spec.learning_rate / middle, asked.tuning.spacing) - shift
        if places > 2.5:
            return record(spec, None, "diverged")
        noise = random.Random(spec.run_id).random() / 1000
        return record(spec, 2 + 0.1 * places**2 + noise)

    return run


def next_runs(asked: StudySpec, data: DataSummary, records: Sequence[RunRecord]) -> list[RunSpec]:
    """What the driver asks, the way the driver asks it."""
    return schedule.next_runs(asked, data, schedule.current(asked, data, records))


def drive(asked: StudySpec, data: DataSummary, lab: Lab, records: Sequence[RunRecord] = ()) -> list[RunRecord]:
    """All records of the study at its end, those given among them. No run is made twice."""
    done = list(records)
    while waiting := next_runs(asked, data, done):
        assert not {run.run_id for run in waiting} & {r.run_id for r in done}, "a run that is already there"
        assert len({run.run_id for run in waiting}) == len(waiting), "a run twice in one wave"
        done += [lab(run) for run in waiting]
        assert len(done) < 500, "the study never ends"
    return done


def ids(records: Sequence[RunRecord]) -> set[str]:
    return {r.run_id for r in records}


# --- the search for the learning rate


def explore(
    tuning: TuningSpec, losses: Callable[[float], float | None], middle: float = 1e-3
) -> dict[float, float | None]:
    """rate -> loss of a whole search, driven by `search` alone."""
    tried: dict[float, float | None] = {}
    while waiting := schedule.search(tuning, middle, tried).waiting:
        assert not set(waiting) & set(tried), "a rate that was tried already"
        assert len(set(waiting)) == len(waiting), "a rate twice"
        tried |= {rate: losses(rate) for rate in waiting}
    return tried


def test_the_search_begins_with_the_grid_around_the_centre() -> None:
    assert schedule.search(TuningSpec(), 1e-3, {}).waiting == [3.33e-4, 1e-3, 3e-3]
    assert schedule.search(TuningSpec(rates=5), 1e-3, {}).waiting == [1.11e-4, 3.33e-4, 1e-3, 3e-3, 9e-3]
    assert schedule.search(TuningSpec(rates=1), 1e-3, {}).waiting == [1e-3]
    assert schedule.search(TuningSpec(), 1e-3, {1e-3: 2.0}).waiting == [3.33e-4, 3e-3]


def test_a_best_rate_in_the_middle_ends_the_search() -> None:
    assert list(explore(TuningSpec(), lambda rate: abs(math.log(rate / 1e-3)))) == [3.33e-4, 1e-3, 3e-3]


@pytest.mark.parametrize(
    ("optimum", "tried"),
    [
        (9e-3, [3.33e-4, 1e-3, 3e-3, 9e-3, 2.7e-2]),
        (1.11e-4, [3.33e-4, 1e-3, 3e-3, 1.11e-4, 3.7e-5]),
        (1.0, [3.33e-4, 1e-3, 3e-3, 9e-3, 2.7e-2, 8.1e-2, 2.43e-1]),
        (1e-9, [3.33e-4, 1e-3, 3e-3, 1.11e-4, 3.7e-5, 1.23e-5, 4.12e-6]),
    ],
)
def test_the_search_is_extended_while_the_best_is_at_an_edge_up_to_the_cap(optimum: float, tried: list[float]) -> None:
    assert list(explore(TuningSpec(cap=7), lambda rate: abs(math.log(rate / optimum)))) == tried


def test_the_search_turns_round_where_noise_moves_the_best_to_the_other_edge() -> None:
    losses = {3.33e-4: 3.0, 1e-3: 3.1, 3e-3: 2.0, 9e-3: 2.5, 1.11e-4: 1.0, 3.7e-5: 4.0}
    assert list(explore(TuningSpec(), losses.__getitem__)) == [3.33e-4, 1e-3, 3e-3, 9e-3]
    assert schedule.search(TuningSpec(), 1e-3, {**losses, 3.33e-4: 1.5}).waiting == []


def test_a_diverged_rate_closes_its_edge() -> None:
    losses = {3.33e-4: 3.0, 1e-3: 2.5, 3e-3: 2.0, 9e-3: None}
    assert list(explore(TuningSpec(), losses.__getitem__)) == list(losses)
    losses = {3.33e-4: 3.0, 1e-3: 2.0, 3e-3: None}
    assert list(explore(TuningSpec(), losses.__getitem__)) == list(losses)


def test_where_everything_diverges_the_search_goes_down_to_the_cap() -> None:
    assert list(explore(TuningSpec(cap=5), lambda rate: None)) == [3.33e-4, 1e-3, 3e-3, 1.11e-4, 3.7e-5]


def test_after_all_began_diverged_the_first_rate_that_does_not_is_bracketed_from_below() -> None:
    losses = {3.33e-4: None, 1e-3: None, 3e-3: None, 1.11e-4: 2.0, 3.7e-5: 2.5}
    assert list(explore(TuningSpec(), losses.__getitem__)) == list(losses)


@given(
    rates=st.integers(1, 6),
    more=st.integers(0, 6),
    spacing=st.floats(1.1, 20),
    middle=st.floats(1e-8, 1.0),
    losses=st.lists(st.one_of(st.none(), st.floats(0, 10)), min_size=12, max_size=12),
)
@settings(max_examples=300)
def test_a_search_repeats_no_rate_keeps_to_the_cap_and_ends_bracketed_or_at_the_cap(
    rates: int, more: int, spacing: float, middle: float, losses: list[float | None]
) -> None:
    tuning = TuningSpec(rates=rates, cap=rates + more, spacing=spacing)
    answers = iter(losses)
    tried = explore(tuning, lambda rate: next(answers), middle)
    assert rates <= len(tried) <= tuning.cap
    assert all(rate > 0 for rate in tried)
    if rates > 1 and len(tried) < tuning.cap:
        best = min((loss, rate) for rate, loss in tried.items() if loss is not None)[1]
        assert min(tried) < best < max(tried)


@given(order=st.randoms(use_true_random=False), keep=st.floats(0, 1), optimum=st.floats(1e-6, 10))
def test_a_search_that_lost_any_of_its_trials_makes_them_again_and_no_others(
    order: random.Random, keep: float, optimum: float
) -> None:
    def loss(rate: float) -> float:
        return abs(math.log(rate / optimum))

    whole = explore(TuningSpec(), loss)
    kept = {rate: value for rate, value in whole.items() if order.random() < keep}
    while waiting := schedule.search(TuningSpec(), 1e-3, kept).waiting:
        kept |= {rate: loss(rate) for rate in waiting}
    assert kept == whole


def test_trials_left_over_from_another_centre_or_cap_change_nothing() -> None:
    leftovers = {7e-4: 0.1, 1e-5: 0.0, 9e-3: 0.2, 2.43e-1: 0.01}
    losses = {3.33e-4: 3.0, 1e-3: 2.0, 3e-3: 2.5}
    found = schedule.search(TuningSpec(), 1e-3, {**leftovers, **losses})
    assert found.waiting == []
    assert found.tried == losses


# --- centres


def test_the_centre_of_full_comes_from_the_family_or_from_the_width() -> None:
    asked = study(SFT)
    assert schedule.centre(asked, SFT, FullMethod()) == pytest.approx(5e-5 * 2)  # (2000 / 500)^0.5
    assert schedule.centre(asked, SFT.replace(model_type="roberta"), FullMethod()) == 2e-5
    assert schedule.centre(asked, SFT, FullMethod(learning_rate=0.3)) == 0.3


def test_the_centre_of_lora_is_10_times_fulls_or_15_in_short_runs_and_falls_with_its_effective_alpha() -> None:
    long, short = study(SFT, train={"max_steps": 100}), study(SFT, train={"max_steps": 99})
    full = schedule.centre(long, SFT, FullMethod())
    for rank in (1, 8, 64):
        assert schedule.centre(long, SFT, LoraMethod(rank=rank)) == pytest.approx(10 * full)
        assert schedule.centre(short, SFT, LoraMethod(rank=rank)) == pytest.approx(15 * full)
    assert schedule.centre(long, SFT, LoraMethod(alpha=128)) == pytest.approx(5 * full)
    assert schedule.centre(long, SFT, LoraMethod(rank=16, alpha=32, variant="rslora")) == pytest.approx(5 * full)


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
    rates = schedule.selected_rates(asked, done)
    trained = [arm for arm in asked.arms if arm != "theirs"]
    for arm in trained:
        losses = schedule.trial_losses(schedule.trials(done, arm))
        assert 3 <= len(losses) <= asked.tuning.cap
        assert losses[rates[arm]] == min(loss for loss in losses.values() if loss is not None)
        confirmed = [r.spec for r in done if r.spec.arm == arm and r.spec.role == "confirm"]
        assert sorted(spec.seed for spec in confirmed) == list(asked.confirmation_seeds())
        assert {spec.learning_rate for spec in confirmed} == {rates[arm]}
    for spec in (r.spec for r in done):
        assert (spec.seed == asked.search_seed()) == (spec.role == "tune")
        assert ("test" in spec.score_splits) == (spec.role != "tune"), "test steers nothing"
        assert (spec.inputs.general is None) == (spec.role == "tune")
    assert sum(r.spec.role == "base" for r in done) == 1
    assert [len(runs) for runs in schedule.confirmed(asked, done).values()] == [3] * len(asked.arms)


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
    head_rate = schedule.selected_rates(asked, done)["head"]
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
    assert schedule.resolve(asked, CLASSIFY) == asked
    assert schedule.reference_arm(asked) == "linear-probe"
    assert schedule.reference_arm(study(SFT)) == "base"
    done = drive(asked, CLASSIFY, bowl(asked, CLASSIFY))
    assert schedule.shared_head_rate(asked, CLASSIFY, done) == schedule.selected_rates(asked, done)["linear-probe"]


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


# --- continuing


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
    assert schedule.selected_rates(asked, continued) == schedule.selected_rates(asked, fresh)
    for arm in asked.arms:
        assert schedule.trials(continued, arm) == schedule.trials(fresh, arm)
    assert {arm: ids(runs) for arm, runs in schedule.confirmed(asked, continued).items()} == {
        arm: ids(runs) for arm, runs in schedule.confirmed(asked, fresh).items()
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
    rates = schedule.selected_rates(asked, done)
    moved = study(SFT, arms={name: {**arm, "learning_rate": rates[name]} for name, arm in ARMS.items()})
    assert next_runs(moved, SFT, done) == []


# --- existing models, failures


def test_an_existing_model_is_scored_once_and_stands_for_every_seed() -> None:
    asked = study(SFT, arms={**ARMS, **EXISTING}, looks=[4])
    done = drive(asked, SFT, bowl(asked, SFT))
    runs = [r for r in done if isinstance(r.spec.method, ExistingMethod)]
    assert len(runs) == 1
    assert runs[0].spec.inputs.existing == "e" * 64
    assert runs[0].spec.learning_rate is None
    assert schedule.confirmed(asked, done)["theirs"] == runs * 4
    assert schedule.is_bracketed(asked, done, "theirs")


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
    done = with_status(drive(asked, SFT, bowl(asked, SFT)), "lora-r8", lost, status="failed")
    kept = [seed for seed in asked.confirmation_seeds() if seed != lost]
    found = schedule.confirmed(asked, done)
    assert list(found) == [*ARMS, "theirs"]
    assert all([r.spec.seed for r in found[arm]] == kept for arm in ARMS)
    assert len(found["theirs"]) == len(kept)
    assert next_runs(asked, SFT, done) == [], "within one go a lost run is not made again"


def test_a_diverged_confirmation_stays_in() -> None:
    asked = study(SFT)
    seed = asked.confirmation_seeds()[0]
    done = with_status(drive(asked, SFT, bowl(asked, SFT)), "full", seed, status="diverged")
    assert [len(runs) for runs in schedule.confirmed(asked, done).values()] == [3, 3, 3]


def test_confirmations_at_a_rate_that_is_no_longer_chosen_are_left_out() -> None:
    asked = study(SFT)
    lab = bowl(asked, SFT)
    done = drive(asked, SFT, lab)
    rates = schedule.selected_rates(asked, done)
    worse = [
        record(r.spec, 99.0) if (r.spec.role, r.spec.learning_rate) == ("tune", rates["full"]) else r for r in done
    ]
    continued = drive(asked, SFT, lab, worse)
    chosen = schedule.selected_rates(asked, continued)["full"]
    assert chosen != rates["full"]
    assert {r.spec.learning_rate for r in schedule.confirmed(asked, continued)["full"]} == {chosen}


def test_an_arm_whose_every_trial_diverged_is_never_confirmed_and_the_study_ends() -> None:
    asked = study(SFT)
    lab = bowl(asked, SFT)

    def broken(spec: RunSpec) -> RunRecord:
        return record(spec, None, "diverged") if spec.arm == "full" else lab(spec)

    done = drive(asked, SFT, broken)
    assert len(schedule.trials(done, "full")) == asked.tuning.cap
    assert set(schedule.confirmed(asked, done)) == {"lora-r8", "lora-r16"}
    assert not schedule.is_bracketed(asked, done, "full")


def test_a_head_whose_every_trial_diverged_does_not_stop_the_study() -> None:
    asked = study(CLASSIFY)
    lab = bowl(asked, CLASSIFY)
    done = drive(asked, CLASSIFY, lambda spec: record(spec, None, "diverged") if spec.arm == "head" else lab(spec))
    assert set(schedule.confirmed(asked, done)) == set(ARMS)


def test_a_diverged_trial_is_never_chosen_whatever_it_reached_before() -> None:
    asked = study(SFT)
    lab = bowl(asked, SFT)
    middle = schedule.grid_rate(asked.tuning, schedule.centre(asked, SFT, asked.arms["full"]), 0)

    def breaks_late(spec: RunSpec) -> RunRecord:
        is_it = (spec.arm, spec.learning_rate) == ("full", middle)
        return record(spec, 0.001, "diverged") if is_it else lab(spec)

    assert schedule.selected_rates(asked, drive(asked, SFT, breaks_late))["full"] != middle


def test_of_two_rates_as_good_the_lower_is_chosen() -> None:
    asked = study(SFT)
    done = drive(asked, SFT, lambda spec: record(spec, None if spec.learning_rate is None else 2.0))
    for arm, rate in schedule.selected_rates(asked, done).items():
        assert rate == min(trial.rate for trial in schedule.trials(done, arm))


def test_accuracy_selects_before_the_loss_and_the_loss_decides_ties() -> None:
    best = Evaluation(step=1, nll=9.0, accuracy=0.81)
    tied = Evaluation(step=2, nll=0.5, accuracy=0.80)
    worse = Evaluation(step=3, nll=0.6, accuracy=0.80)
    assert best.selection_loss < tied.selection_loss < worse.selection_loss


def test_the_selected_evaluation_is_the_one_that_the_run_selected_not_the_last() -> None:
    asked = study(SFT)
    spec = next_runs(asked, SFT, [])[1]
    chosen = record(spec, 2.0).replace(selected_step=5)
    assert schedule.selection_loss(chosen) == 11.0
    assert schedule.selection_loss(record(spec, None, "diverged")) == math.inf
