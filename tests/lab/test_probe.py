"""The probe: whose steps are done, when none are, and what their seconds are made into."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab_fixtures import make_examples
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching
from tunewise.lab.plan import timing, writing
from tunewise.lab.plan.meta_model import with_drawn_values
from tunewise.lab.plan.study import plan_study
from tunewise.lab.plan.workload import workload
from tunewise.lab.train.loop import Loop
from tunewise.records.plan import PlanRequest, Speed, StudyPlan
from tunewise.spec import StudySpec, TrainSpec


@pytest.fixture
def planned(model_folder: Any, tmp_path: Path) -> tuple[StudySpec, StudyPlan, Path]:
    """A study of two arms on a small Llama and forty rows, its plan, and the folder that the plan was made in."""
    rows = [{"prompt": f"w{4 + n}", "completion": " ".join(["w7"] * (n % 5 + 1)) + f" w{9 + n}"} for n in range(40)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    study = StudySpec.model_validate(
        {
            "name": "n",
            "model": str(model_folder("llama")),
            "data": {"train": str(file)},
            "arms": {"full": {"method": "full"}, "lora": {"method": "lora", "rank": 2}},
            "train": {"batch_size": 8},
            "machine": {"device": "cpu", "precision": "bf16", "threads": 1},
        }
    )
    folder = tmp_path / "place"
    folder.mkdir()
    return study, plan_study(study, folder, PlanRequest()), folder


def speed_of(planned: tuple[StudySpec, StudyPlan, Path], arm: str = "lora") -> Speed:
    study, plan, folder = planned
    return timing.probe_arm(study, folder, arm, plan.arms[arm])


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["full", "lora"])
def test_the_steps_of_an_arm_are_done_where_they_fit(planned: Any, arm: str) -> None:
    speed = speed_of(planned, arm)
    assert speed.source == "steps"
    assert min(speed.step_seconds, speed.score_seconds_per_token, speed.fp32_score_seconds_per_token) > 0
    assert speed.resume_seconds is not None
    assert speed.resume_seconds >= 0
    assert speed.peak_above_start_bytes is not None


@pytest.mark.slow
def test_nothing_is_built_where_a_step_would_not_fit_in_the_free_memory(
    planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_no_model(*of: object) -> None:
        raise AssertionError("no step may be done")

    monkeypatch.setattr(timing, "_with_weights", build_no_model)
    monkeypatch.setattr(timing, "_free", lambda device: planned[1].arms["lora"].step.total)
    monkeypatch.setattr(timing, "product_rates", lambda *of: timing.Rates(training=1e6, fp32=1e5))
    speed, plan = speed_of(planned), planned[1].arms["lora"]
    assert speed.source == "products"
    assert speed.fp32_score_seconds_per_token == pytest.approx(plan.scoring_flops_per_token / 1e5)
    assert speed.score_seconds_per_token == pytest.approx(plan.scoring_flops_per_token / 1e6)
    steps = -(-planned[1].work.num_rows // 8)
    tokens = planned[1].work.tokens_per_row * planned[1].work.num_rows / steps
    assert speed.step_seconds == pytest.approx(tokens * plan.flops_per_token / 1e6)


def test_the_time_of_texts_is_measured_where_they_select(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one more token and of the first one, so of an answer of any length; without a step a lower bound."""
    study, plan, folder = planned
    assert speed_of(planned).write_seconds_per_row is None
    texts = {"metrics": [{"name": "exact_match"}], "primary": "exact_match", "select_by": "primary"}
    asked = study.replace(**texts, samples={"max_new_tokens": 40})
    timed: list[int] = []
    real = writing.continued

    def continued(prompts: Any, model: Any, ends: Any, num_tokens: int) -> torch.Tensor:
        timed.append(num_tokens)
        return real(prompts, model, ends, num_tokens)

    monkeypatch.setattr(writing, "continued", continued)
    found = speed_of((asked, plan, folder)).write_seconds_per_row
    assert found is not None
    assert found > 0
    assert sorted(timed) == [1, 1, writing.NUM_TIMED]
    monkeypatch.setattr(timing, "_free", lambda device: 0)
    monkeypatch.setattr(timing, "product_rates", lambda *of: timing.Rates(training=1e6, fp32=1e5))
    found = speed_of((asked, plan, folder)).write_seconds_per_row
    assert found == pytest.approx(40 * plan.arms["lora"].scoring_flops_per_token / 1e6)


def test_a_step_that_would_take_too_long_is_done_in_part_and_says_nothing_of_the_peak(
    planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    whole = timing.compute_gradient

    def gradient(model: torch.nn.Module, batches: Any, num_targets: int, loop: Loop) -> Any:
        done.extend(len(batch.rows) for batch in batches)
        return whole(model, batches, num_targets, loop)

    monkeypatch.setattr(timing, "compute_gradient", gradient)
    plan = planned[1].arms["lora"]
    longest = planned[1].work.longest
    # two of the longest in the limit, of eight in a step; a part takes a third of that
    rate = plan.flops_per_token * longest * 2 / timing.LIMIT_SECONDS
    monkeypatch.setattr(timing, "product_rates", lambda *of: timing.Rates(rate, rate))
    speed = speed_of(planned)
    assert speed.source == "steps"
    assert speed.peak_above_start_bytes is None
    assert done == [1] * 5, "one to set up, two to time, and one after each of two scorings"


@pytest.fixture
def steps_of_four_seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that jumps: every step takes 3 seconds for its gradient, or as many as it is told to, and 1 to update."""
    now, gradient_seconds = [0.0], [3.0]

    def gradient(*of: object) -> Any:
        now[0] += gradient_seconds[0]
        return type("Gradient", (), {"norm": torch.ones(())})

    def update(*of: object) -> None:
        now[0] += 1

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(timing, "compute_gradient", gradient)
    monkeypatch.setattr(timing, "update", update)
    return lambda seconds: gradient_seconds.__setitem__(0, seconds)


LOOP = type("Loop", (), {"compute": Compute("cpu", "fp32")})


def work_of(num_steps: int) -> timing.Work:
    """Steps of two examples of eight tokens."""
    load = workload(make_examples([8] * 2 * num_steps), TrainSpec(batch_size=2), 0, Batching(64, 0, 0))
    return timing._work(load, 1e-9)


def test_a_warm_up_does_not_count_and_no_step_begins_when_the_time_is_over(steps_of_four_seconds: Any) -> None:
    timed = timing._time_steps(torch.nn.Linear(1, 1), work_of(8), LOOP)
    assert timed == [timing.StepSeconds(3, 1, 16)] * 2, "in a limit of 5 seconds"


def test_no_step_is_done_twice_where_there_are_enough(steps_of_four_seconds: Any) -> None:
    found = [*work_of(8).timed, *(step for steps in work_of(8).resumed for step in steps)]
    assert len({batch.rows for (batch,) in found}) == 8
    few = work_of(1)
    assert (len(few.timed), [len(steps) for steps in few.resumed]) == (1, [2, 2])


def test_a_usual_step_is_the_mean_of_the_middle_half() -> None:
    held_up = [timing.StepSeconds(gradient, 1 + gradient / 100, 10) for gradient in (10, 30, 20, 900)]
    assert timing._usual(held_up) == timing.Usual(2.5, 1.25)
    assert timing._usual(held_up[:2]).of(20) == pytest.approx(20 * 2 + 1.2)


def test_the_steps_after_every_scoring_are_told_apart(steps_of_four_seconds: Any) -> None:
    def score_once() -> float:
        steps_of_four_seconds(7)
        return 0.5

    seconds, after = timing._interrupted(torch.nn.Linear(1, 1), work_of(8), LOOP, score_once)
    assert seconds == [0.5] * 2
    assert [[step.total for step in steps] for steps in after] == [[8, 8]] * 2


def test_drawn_weights_are_as_large_as_trained_ones_and_none_is_zero() -> None:
    weight = with_drawn_values(torch.empty(3, 700_000, device="meta"))
    assert weight.std() == pytest.approx(0.02, rel=0.01)
    assert weight.ne(0).all()
    assert with_drawn_values(torch.empty(5, device="meta")).eq(1).all()
    assert with_drawn_values(torch.empty(5, device="meta", dtype=torch.long)).eq(0).all()
