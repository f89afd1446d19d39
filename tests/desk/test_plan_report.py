"""What follows from a plan: what fits, how fast a card could be at best, and what is shown of it."""

import math
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from planned_study import GIB, PEAK, SPEED, TEST, TUNED, arm_plan, study_plan
from rich.console import Console
from typer.testing import CliRunner

from fake_executor import FakeExecutor
from tunewise.cli.app import app
from tunewise.commands import plan as plan_module
from tunewise.desk.planning import estimates
from tunewise.desk.planning.gpus import Gpu, find_gpu, known_gpus
from tunewise.desk.report.terminal.plan import USES, chart, print_plan
from tunewise.errors import SpecError
from tunewise.executors.base import Job, PlanJob
from tunewise.records import events
from tunewise.records.events import Event
from tunewise.records.plan import StudyPlan, StudySeconds, fitting_tokens, plan_key
from tunewise.spec import StudySpec


def study() -> StudySpec:
    return StudySpec.model_validate({"name": "n", "data": {"train": "a"}, "arms": {"lora": {"method": "lora"}}})


def printed(
    plan: StudyPlan, card: tuple[str, Gpu] | None = None, width: int = 160, asked: StudySpec | None = None
) -> str:
    text = StringIO()
    print_plan(asked or study(), plan, card, Console(file=text, width=width))
    return text.getvalue()


# --- what follows


def test_a_peak_is_tight_above_nine_tenths_of_the_memory() -> None:
    arm = arm_plan(step=PEAK.model_dump(), evaluation=None, speed=None)
    assert estimates.fit(arm, PEAK.total) == "tight"
    assert estimates.fit(arm, PEAK.total - 1) == "does not fit"
    assert estimates.fit(arm, math.ceil(PEAK.total / 0.9) + 1) == "fits"


def test_an_arm_fits_only_if_loading_a_step_and_scoring_do() -> None:
    arm = arm_plan(step=PEAK.model_dump(), evaluation=None, speed=None)
    more = PEAK.replace(weights=PEAK.weights + 1)
    assert estimates.fit(arm.replace(loading=PEAK.total + 1), PEAK.total) == "does not fit"
    assert estimates.fit(arm.replace(evaluation=more), PEAK.total) == "does not fit"
    assert estimates.fit(arm.replace(loading=PEAK.total, evaluation=PEAK), PEAK.total) == "tight"


def test_a_quantized_base_replaces_the_bytes_of_its_frozen_weights_by_four_bits_and_constants() -> None:
    packed = estimates.quantized(arm_plan())
    assert packed is not None
    assert PEAK.weights - packed.weights == 2 * GIB - round(GIB * 4.127 / 8)
    assert packed.activations == PEAK.activations
    assert estimates.quantized(arm_plan(frozen_linear_weights=0, frozen_linear_bytes=0)) is None
    assert estimates.quantized(arm_plan(step=None)) is None


def test_an_epoch_is_bound_by_the_cards_rate_or_by_its_bandwidth() -> None:
    """1000 rows of 50 tokens at 0.6 GFLOP are 30 TFLOP; 63 steps move 2 x 4 GiB of weights, 2 x 2 GiB of state, and
    four times 1.18 MB of gradients and weights that learn."""
    arm, plan = arm_plan(), study_plan()
    by_rate = Gpu(24, 1e9, 10.0, "")
    assert estimates.least_epoch_seconds(arm, plan, by_rate) == pytest.approx(3.0)
    by_bandwidth = Gpu(24, 100.0, 1e9, "")
    moved = 63 * (12 * GIB + 4 * 4 * 294_912)
    assert estimates.least_epoch_seconds(arm, plan, by_bandwidth) == pytest.approx(moved / 100e9)


def test_without_rows_or_without_bf16_there_is_no_time() -> None:
    card = Gpu(24, 1000.0, 100.0, "")
    assert estimates.least_epoch_seconds(arm_plan(), study_plan({"num_rows": None}), card) is None
    assert estimates.least_epoch_seconds(arm_plan(), study_plan(), card._replace(bf16_teraflops=None)) is None


def test_the_margin_is_that_of_check() -> None:
    found = estimates.resolvable_margin(study(), study_plan())
    assert found is not None
    assert found[1] == "nll"
    assert 0 < found[0] < 1
    assert estimates.resolvable_margin(study(), study_plan({"splits": ()})) is None
    assert estimates.resolvable_margin(study().replace(looks=(1,)), study_plan()) is None, "one seed resolves nothing"


# --- automatic micro-batches


def test_micro_batches_fit_in_every_arm_and_hold_an_example_at_least() -> None:
    roomy = arm_plan(step=PEAK.replace(activations=0))
    plan = study_plan(full=roomy, lora=roomy).replace(micro_batch_tokens=16384, memory_bytes=10 * GIB)
    assert fitting_tokens(plan) == 16384
    tight = arm_plan(largest_micro_batch=4096)
    assert fitting_tokens(plan.replace(arms={"full": roomy, "lora": tight})) == 4096
    none = arm_plan(largest_micro_batch=None)
    assert fitting_tokens(plan.replace(arms={"full": tight, "lora": none})) == plan.work.longest
    unknown = arm_plan(step=None, largest_micro_batch=None)
    assert fitting_tokens(plan.replace(arms={"full": unknown})) == 16384


# --- the time of a study

VALID = TEST.replace(split="valid", tokens=400)


def timed_study(**changes: Any) -> tuple[StudySpec, StudyPlan]:
    """Two arms of 126 steps on 400 tokens of valid and 5,000 of test."""
    arms = {"full": {"method": "full"}, "lora": {"method": "lora"}}
    content = {"name": "n", "data": {"train": "a"}, "arms": arms, "looks": [3], "train": {"evaluations": 4}}
    tuning = {"rates": 3, "cap": 5, "half_steps": False}
    asked = StudySpec.model_validate({**content, "tuning": tuning, **changes})
    plans = {name: arm_plan(speed=SPEED) for name in asked.arms}
    return asked, study_plan({"splits": (VALID, TEST)}, **plans)


def test_the_time_of_a_study_is_that_of_its_trials_its_confirmations_and_the_base() -> None:
    asked, plan = timed_study(forgetting={"tokens": 0})
    trial = 126 * 2.0 + 4 * 400 * 0.01
    confirmation = trial + 5000 * 0.03
    found = estimates.study_seconds(asked, plan)
    assert found is not None
    assert found.least == pytest.approx(2 * (3 * trial + 3 * confirmation) + 5400 * 0.03)
    assert found.most == pytest.approx(2 * (5 * trial + 3 * confirmation) + 5400 * 0.03)
    assert found.second_look is None
    more, _ = timed_study(forgetting={"tokens": 0}, looks=[3, 5])
    found = estimates.study_seconds(more, plan)
    assert found is not None
    assert found.second_look == pytest.approx(2 * 2 * confirmation)


def test_texts_that_select_are_written_at_every_evaluation_and_by_the_base() -> None:
    """100 rows of valid at 0.2 s: 4 evaluations of each of 12 runs, and once by the base."""
    share = {"metrics": [{"name": "exact_match"}], "primary": "exact_match", "forgetting": {"tokens": 0}}
    plain, plan = timed_study(**share)
    asked, _ = timed_study(**share, select_by="primary")
    assert plan_key(asked) != plan_key(plain), "a plan without the time of texts is not reused"
    valid = VALID.replace(rows=100)
    plan = plan.replace(work=plan.work.replace(splits=(valid, TEST)))
    writing = {name: arm.replace(speed=SPEED.replace(write_seconds_per_row=0.2)) for name, arm in plan.arms.items()}
    found = estimates.study_seconds(asked, plan.replace(arms=writing))
    before = estimates.study_seconds(plain, plan.replace(arms=writing))
    assert found is not None
    assert before is not None
    assert found.least - before.least == pytest.approx(100 * 0.2 * (2 * (3 + 3) * 4 + 1))
    assert estimates.study_seconds(asked, plan) is None


def test_general_text_is_scored_at_every_point_and_valid_where_no_evaluation_has_done_so() -> None:
    """Of 126 steps evaluations are after 32, 63, 94 and 126, points at 0, 63 and 126: valid is scored once more."""
    without, _ = timed_study(forgetting={"tokens": 0})
    asked, plan = timed_study(forgetting={"tokens": 1000, "points": 2})
    with_general, plain = estimates.study_seconds(asked, plan), estimates.study_seconds(without, plan)
    assert with_general is not None
    assert plain is not None
    trial, confirmation = 1000 * 0.01, (400 + 3 * 1000) * 0.01 + 1000 * 0.03
    assert with_general.least - plain.least == pytest.approx(2 * (3 * trial + 3 * confirmation) + 1000 * 0.03)


def test_a_step_after_a_scoring_takes_more() -> None:
    """Evaluations after 32, 63, 94 and 126, points at 0, 42, 84 and 126: a trial is interrupted 3 times, a run 5."""
    asked, plan = timed_study(forgetting={"tokens": 1000, "points": 3})
    slower = {name: arm.replace(speed=SPEED.replace(resume_seconds=0.5)) for name, arm in plan.arms.items()}
    found, plain = (estimates.study_seconds(asked, of) for of in (plan.replace(arms=slower), plan))
    assert found is not None
    assert plain is not None
    assert found.least - plain.least == pytest.approx(2 * (3 * 3 * 0.5 + 3 * 5 * 0.5))
    of_run = estimates.training_seconds(asked, plan.replace(arms=slower), "full")
    assert of_run == pytest.approx(126 * 2.0 + 5 * 0.5)


def test_short_trials_take_their_share_of_the_steps_and_all_of_their_evaluations() -> None:
    """15 % of 126 steps are 19; valid is scored four times in a short trial, too, and general text never."""
    changes = {"tuning": {"search": "short", "rates": 7, "cap": 5}, "forgetting": {"tokens": 1000, "points": 0}}
    asked, plan = timed_study(**changes)
    short, trial = 19 * 2.0 + 1600 * 0.01, 126 * 2.0 + (1600 + 1000) * 0.01
    confirmation = 126 * 2.0 + 1600 * 0.01 + 6000 * 0.03
    found = estimates.study_seconds(asked, plan)
    assert found is not None
    assert found.least == pytest.approx(2 * (7 * short + 3 * trial + 3 * confirmation) + 6400 * 0.03)


def test_truncations_and_extractions_score_valid_again() -> None:
    arms = {"full": {"method": "full", "extract": [4, 8]}, "lora": {"method": "lora", "rank": "auto", "max_rank": 8}}
    asked, plan = timed_study(arms=arms, forgetting={"tokens": 0})
    without, _ = timed_study(forgetting={"tokens": 0})
    found, plain = estimates.study_seconds(asked, plan), estimates.study_seconds(without, plan)
    assert found is not None
    assert plain is not None
    trial = 126 * 2.0 + 4 * 400 * 0.01
    more_trials = 3 * trial + 3 * 5 * 400 * 0.01  # ranks 1, 2, 4, even and spread, at rank 1 the same
    assert found.least - plain.least == pytest.approx(more_trials + 3 * 3 * 400 * 0.01)


def test_what_is_in_the_time_of_a_study_and_what_is_not_is_said() -> None:
    arms = {"full": {"method": "full", "extract": [4, 8]}, "lora": {"method": "lora", "rank": "auto", "max_rank": 8}}
    asked, plan = timed_study(arms=arms, looks=[3, 5], budget="2h")
    seconds = StudySeconds(least=60, most=120, second_look=30)
    text = printed(plan.replace(seconds=seconds), width=400, asked=asked)
    for words in (
        "1 min 00 s, or 2 min 00 s if every search reaches its cap; later looks add up to 30.0 s",
        "16 to 22 runs up to the first look at 3 seeds, and up to 4 more for 5 seeds",
        "loading, saving, process starts, generated text and the singular values for extract are not",
        "lora: an estimate",
        "The budget of 2h may reduce the study",
    ):
        assert words in text, words
    plain, plan = timed_study(samples={"count": 0})
    text = printed(plan.replace(seconds=seconds.replace(second_look=None)), width=400, asked=plain)
    for words in ("an estimate;", "look", "budget", "generated", "singular"):
        assert words not in text, words


def test_without_the_speed_of_an_arm_or_without_data_the_study_has_no_time() -> None:
    asked, plan = timed_study()
    assert estimates.study_seconds(asked, plan.replace(arms={**plan.arms, "lora": arm_plan()})) is None
    assert estimates.study_seconds(asked, plan.replace(work=plan.work.replace(splits=()))) is None


def test_seconds_say_what_they_are_derived_from() -> None:
    _, plan = timed_study()
    seconds = StudySeconds(least=7200, most=10800)
    text = printed(plan.replace(seconds=seconds))
    for words in ("per step", "2.0 s", "per epoch", "2 min 06 s", "2 h 00 min", "3 h 00 min", "real steps"):
        assert words in text, words
    bound = SPEED.replace(source="products")
    text = printed(plan.replace(arms={"lora": arm_plan(speed=bound)}, seconds=seconds), width=300)
    for words in ("over 2.0 s", "over 2 h 00 min", "a lower bound"):
        assert words in text, words


# --- arms that nobody wrote down


def planned_by(monkeypatch: pytest.MonkeyPatch, asked: StudySpec, of_lab: StudyPlan, **how: bool) -> StudyPlan:
    """The plan of raw data that `tunewise plan` shows, the lab having answered `of_lab` and `SPEED` for every arm."""

    def answer(job: Job) -> Iterator[Event]:
        yield events.Planned(plan=of_lab) if isinstance(job, PlanJob) else events.Probed(speed=SPEED)

    monkeypatch.setattr(plan_module, "LocalExecutor", lambda: FakeExecutor(answer))
    return plan_module.plan(asked, **how)


def test_the_time_of_a_classification_of_raw_data_has_the_head_arm_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plan = timed_study(forgetting={"tokens": 0})
    of_lab = plan.replace(task="classify", arms={**plan.arms, "head": arm_plan()})
    found = planned_by(monkeypatch, asked, of_lab)
    with_head = asked.replace(arms={**asked.model_dump()["arms"], "head": {"method": "head"}})
    assert found.arms["head"].speed == SPEED
    assert found.seconds == estimates.study_seconds(with_head, found)
    without = planned_by(monkeypatch, asked, plan).seconds
    assert found.seconds is not None
    assert without is not None
    assert found.seconds.least - without.least == pytest.approx((without.least - 5400 * 0.03) / 2), "of two arms"


def test_the_time_of_open_targets_is_that_of_an_arm_for_every_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    open_targets = {"lora": {"method": "lora", "targets": "auto", "rank": 4}}
    asked, plan = timed_study(arms=open_targets, forgetting={"tokens": 0})
    costs = {"qkv": 64, "attention": 128, "mlp": 128, "all-linear": 256}
    arms = {f"lora-{p}": arm_plan(tuned=TUNED.replace(rank_parameters=cost)) for p, cost in costs.items()}
    found = planned_by(monkeypatch, asked, plan.replace(arms=arms))
    one, _ = timed_study(arms={"lora": {"method": "lora"}}, forgetting={"tokens": 0})
    alone = planned_by(monkeypatch, one, plan.replace(arms={"lora": arm_plan()})).seconds
    assert found.seconds is not None
    assert alone is not None
    base = 5400 * 0.03
    assert found.seconds.most - base == pytest.approx(4 * (alone.most - base))


def test_a_plan_refuses_what_compare_would(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plan = timed_study(tuning={"search": "short", "rates": 7})
    few = plan.replace(work=plan.work.replace(num_steps=39))
    with pytest.raises(SpecError, match="at least 40 optimizer steps, but these have 39"):
        planned_by(monkeypatch, asked, few, probe=False)


# --- cards


def test_every_card_names_its_source_and_plausible_figures() -> None:
    for name, card in known_gpus().items():
        assert card.source, name
        assert 8 <= card.memory_gb <= 200
        assert 200 <= card.bandwidth_gb_per_second <= 10_000
        assert card.bf16_teraflops is None or 40 <= card.bf16_teraflops <= 3000


def test_a_card_is_found_whatever_its_capitals_and_a_near_miss_is_named() -> None:
    assert find_gpu("rtx-4090")[0] == "RTX-4090"
    with pytest.raises(SpecError, match="A100-80GB"):
        find_gpu("A100-80")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("H100", "'H100-80GB' or 'H100-PCIe'?"),
        ("nvidia h100 sxm", "'H100-80GB' or 'H100-PCIe'?"),
        ("A100", "'A100-40GB' or 'A100-80GB'?"),
        ("V100-16GB", "'V100-32GB'?"),
        ("3090 Ti", "'RTX-3090'?"),
        ("L40", "'L40S'?"),
    ],
)
def test_the_near_miss_of_a_card_is_of_its_own_family(name: str, meant: str) -> None:
    with pytest.raises(SpecError) as refused:
        find_gpu(name)
    assert f"Did you mean {meant} Known: " in str(refused.value)


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090", "rtx4090", "RTX_4090"])
def test_a_card_is_found_by_the_name_that_its_maker_prints(name: str) -> None:
    assert find_gpu(name)[0] == "RTX-4090"


def test_a_card_without_bf16_is_planned_in_fp32() -> None:
    assert find_gpu("T4")[1].request().precision == "fp32"
    assert find_gpu("L4")[1].request().precision == "bf16"


# --- what is shown


def test_the_table_says_parameters_share_memory_and_whether_it_was_checked() -> None:
    text = printed(study_plan(full=arm_plan(is_checked=False), lora=arm_plan()))
    for words in ("294,912", "0.2364%", "10.5 GiB", "4,096 tokens", "checked", "estimate", "fits", "Smallest margin"):
        assert words in text, words


def test_figures_for_a_card_are_called_derived() -> None:
    text = printed(study_plan(), ("L4", known_gpus()["L4"]))
    assert "Derived values; nothing was measured on this card." in text
    assert "epoch, at least" in text
    assert known_gpus()["L4"].source in text


def test_a_missing_figure_is_a_dash_and_its_reason_is_told() -> None:
    text = printed(study_plan(lora=arm_plan(step=None, evaluation=None, flops_per_token=None, note="it looks away")))
    assert "–" in text
    assert "it looks away" in text
    assert "GiB" not in text.split("peak of a step")[1].split("\n")[0]


def test_without_data_the_assumed_length_is_told() -> None:
    assert "every example is assumed to have 300 tokens" in printed(study_plan({"splits": ()}))


def test_the_chart_has_a_bar_for_every_arm_and_one_in_four_bits() -> None:
    svg = chart(study_plan(full=arm_plan(frozen_linear_weights=0, frozen_linear_bytes=0), lora=arm_plan()))
    assert svg.startswith("<svg")
    for words in (*USES, "full", "lora, 4-bit base (derived)", "10.5 GiB"):
        assert words in svg, words


@pytest.mark.parametrize(("options", "probe"), [((), True), (("--no-probe",), False)])
def test_the_command_asks_for_the_time_unless_told_not_to(
    options: tuple[str, ...], probe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def plan(study: StudySpec, request: object, **how: Any) -> StudyPlan:
        asked.update(how)
        return study_plan(lora=arm_plan(speed=SPEED if how["probe"] else None))

    monkeypatch.setattr("tunewise.commands.plan.plan", plan)
    said = CliRunner().invoke(app, ["plan", "--model", "gpt2", "--arm", "lora=lora", *options])
    assert said.exit_code == 0, said.output
    assert asked["probe"] == probe
    assert ("per epoch" in said.output) == probe
