"""Law 37: the plan's step and the real step do the same operations on the same shapes."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_studies import small_study
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedTokenizerFast

import tunewise.lab.models.load
import tunewise.lab.train.cross_entropy
import tunewise.lab.train.loop
import tunewise.lab.train.loss
from lab_fixtures import ENCODERS, VOCABULARY, make_examples, small_config
from tunewise.lab.data.batching import Batch, Batching, read_examples
from tunewise.lab.plan import fake_step
from tunewise.lab.plan.arm import plan_arm
from tunewise.lab.plan.kernels import operators, try_kernels
from tunewise.lab.plan.memory import StepMeter
from tunewise.lab.plan.meta_model import give_storage, with_small_values, without_values
from tunewise.lab.plan.operators import Operators
from tunewise.lab.plan.setting import PlanContext, begin_training, build
from tunewise.lab.plan.workload import workload
from tunewise.lab.train.cross_entropy import target_nll
from tunewise.lab.train.updates import UpdateWatch
from tunewise.records.plan import ArmPlan
from tunewise.spec import Device, FullMethod, LoraMethod, Method, TrainSpec

FAMILIES = ("gpt2", "llama", "qwen2", "mistral", "gemma", "bert", "roberta", "distilbert")
ARMS = {"full": {"method": "full"}, "lora": {"method": "lora", "rank": 2}}


def task_of(family: str) -> str:
    return "classify" if family in ENCODERS else "sft"


def rows_of_unequal_length(task: str) -> list[dict[str, str]]:
    texts = [" ".join(f"w{4 + (n * k) % 59}" for k in range(1, 3 + n % 5)) + f" w{4 + n}" for n in range(40)]
    if task == "classify":
        return [{"text": text, "label": f"class {n % 3}"} for n, text in enumerate(texts)]
    return [{"prompt": text, "completion": f"w{9 + n % 7} w{30 + n % 5}"} for n, text in enumerate(texts)]


def setting(family: str, precision: str = "fp32", heads: tuple[str, ...] | None = None) -> PlanContext:
    content: dict[str, Any] = {"device": "cpu", "precision": precision, "task": task_of(family), "heads": heads}
    return PlanContext(small_config(family), num_labels=3, train=TrainSpec(), num_steps=2, attention=None, **content)


class SecondStep:
    """The micro-batches of the second step of a real run, and the operations that it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = tunewise.lab.train.loop
        self.operators = Operators()
        self.batches: list[Batch] = []
        self.number = 0
        whole_gradient, whole_update = loop.compute_gradient, loop.update

        def compute_gradient(model: torch.nn.Module, micro_batches: list[Batch], *others: Any) -> Any:
            self.number += 1
            if self.number != 2:
                return whole_gradient(model, micro_batches, *others)
            self.batches = micro_batches
            with self.operators:
                return whole_gradient(model, micro_batches, *others)

        def update(*arguments: Any) -> None:
            if self.number != 2:
                return whole_update(*arguments)
            with self.operators:
                return whole_update(*arguments)

        monkeypatch.setattr(loop, "compute_gradient", compute_gradient)
        monkeypatch.setattr(loop, "update", update)
        # these look at weights between the steps, and change nothing
        monkeypatch.setattr(UpdateWatch, "compare", lambda self, step: None)
        monkeypatch.setattr(UpdateWatch, "remember", lambda self, step: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "precision"), [*((family, "bf16") for family in FAMILIES), ("gpt2", "fp32"), ("bert", "fp32")]
)
def test_law_37_the_plans_step_does_the_operations_of_a_runs_second_step(
    family: str, precision: str, model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run is trained for two steps of six examples in micro-batches of up to 24 tokens, and with logits of five
    tokens at a time. Its second step, and that of a plan that knows the configuration and the data alone: the same
    batches, and the same operations in the same order, with the same shapes and types in and out."""
    task = task_of(family)
    # transformers would read the words of the small tokenizer in the way of the family's own
    monkeypatch.setattr(tunewise.lab.models.load, "AutoTokenizer", PreTrainedTokenizerFast)
    monkeypatch.setattr(tunewise.lab.train.loss, "MAX_LOGITS", 5 * VOCABULARY)
    study = small_study(
        tmp_path,
        model_folder(family),
        task,
        {name: {**arm, "rates": [1e-3]} for name, arm in ARMS.items()},
        rows=rows_of_unequal_length(task),
        train={"max_steps": 2, "batch_size": 6, "micro_batch_tokens": 24, "head_learning_rate": 0.01},
        machine={"device": "cpu", "precision": precision, "threads": 1},
    )
    trials = {spec.arm: spec for spec in study.waiting() if spec.arm in ARMS}
    assert trials.keys() == ARMS.keys()
    of = setting(family, precision, study.data.head_modules)
    examples = read_examples(study.data_folder / "train.parquet")
    for name, spec in trials.items():
        with monkeypatch.context() as patched:
            real = SecondStep(patched)
            study.run(spec)
        kernels = try_kernels(of, spec.method)
        assert kernels is not None
        batches = workload(examples, spec.train, spec.seed, kernels.batching(spec.train)).first[1]
        assert [batch.rows for batch in batches] == [batch.rows for batch in real.batches]
        assert len(batches) > 1
        assert all(batch.packed_12BL is not None for batch in batches)
        planned = operators(of, spec.method, kernels, batches, is_real=False)
        assert planned == real.operators.seen, name
        assert len(planned) > 100


@pytest.mark.parametrize("method", [FullMethod(), LoraMethod(rank=2)], ids=lambda method: method.method)
@pytest.mark.parametrize(("lengths", "max_packed_length"), [([8, 8], 0), ([8, 5], 0), ([8, 5], 8)])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_law_37_a_step_without_storage_needs_the_same_bytes(
    family: str, lengths: list[int], max_packed_length: int, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes alive at the peak, by what they are for, and FLOPs: of the real step and of the planned one."""
    monkeypatch.setattr(tunewise.lab.train.loss, "MAX_LOGITS", 5 * VOCABULARY)

    def meter(is_real: bool) -> StepMeter:
        found, of = StepMeter(VOCABULARY), setting(family, "bf16")
        kernels = try_kernels(of, method)
        assert kernels is not None
        subject = build(of, method).take_up(kernels)
        examples = make_examples(lengths, classify=family == "bert")
        (batches,) = workload(examples, of.train, 0, Batching(512, 0, max_packed_length)).first
        with fake_step.no_storage("cpu") if not is_real else torch.enable_grad() as mode:
            give_storage(subject.model, with_small_values if is_real else without_values)
            loop = begin_training(subject, of)
            fake_step.begin(loop)
            shapes = batches if is_real else [fake_step.bare(batch, mode) for batch in batches]
            fake_step.meter_step(subject.model, shapes, loop, found)
        return found

    real, planned = meter(is_real=True), meter(is_real=False)
    assert planned.peak == real.peak
    assert planned.flops == real.flops > 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_law_37_logits_are_planned_as_on_the_device(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU treats a few rows of logits at a time, and a GPU all: so does the real step that stands for one here."""
    monkeypatch.setattr(tunewise.lab.train.cross_entropy, "CACHED_LOGITS", 2 * VOCABULARY)
    logits = torch.zeros(600, VOCABULARY, requires_grad=True)
    targets = torch.zeros(600, dtype=torch.long)

    def peak(logits: torch.Tensor, targets: torch.Tensor) -> int:
        with StepMeter(VOCABULARY) as meter:
            target_nll(logits, targets).sum().backward()
        return meter.peak_total

    with fake_step.no_storage(device) as mode:
        planned = peak(mode.from_tensor(logits), mode.from_tensor(targets))
    if device == "cuda":
        monkeypatch.setattr(tunewise.lab.train.cross_entropy, "CACHED_LOGITS", sys.maxsize)
    assert planned == peak(logits, targets)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_law_37_gradient_checkpointing_is_planned(family: str) -> None:
    """Fewer bytes for activations, more operations, and the plan still agrees with a real step."""
    plain, again = (plan_of(family, FullMethod(), [60] * 8, gradient_checkpointing=on) for on in (False, True))
    assert again.is_checked, again.note
    assert again.step is not None
    assert plain.step is not None
    assert again.step.activations < 0.7 * plain.step.activations
    assert again.flops_per_token is not None
    assert plain.flops_per_token is not None
    assert again.flops_per_token > 1.1 * plain.flops_per_token


@pytest.mark.parametrize("family", ["gpt2", "mistral", "distilbert"])
def test_law_37_every_plan_compares_itself_with_a_real_step(family: str) -> None:
    """Of a small model of the same architecture."""
    assert plan_of(family, LoraMethod(rank=2)).is_checked


def test_law_37_a_plan_that_differs_is_not_called_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions without values cannot say that a row holds one text. Left to itself, transformers then builds a mask
    that no real step builds."""

    @contextmanager
    def left_to_itself(device: Device) -> Iterator[FakeTensorMode]:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode

    monkeypatch.setattr(fake_step, "no_storage", left_to_itself)
    monkeypatch.setattr("tunewise.lab.plan.kernels.fit_attention", lambda *of: 0)
    assert not plan_of("llama", FullMethod()).is_checked


def plan_of(
    family: str, method: Method, lengths: Sequence[int] = (8, 8), gradient_checkpointing: bool = False
) -> ArmPlan:
    of = setting(family)
    of = replace(of, train=of.train.replace(gradient_checkpointing=gradient_checkpointing))
    kernels = try_kernels(of, method)
    assert kernels is not None
    examples = make_examples(lengths, classify=family in ENCODERS)
    return plan_arm(of, workload(examples, of.train, 0, kernels.batching(of.train)), method, kernels, 10**9)
