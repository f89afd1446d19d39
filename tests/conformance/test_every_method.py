"""What the product asks of every way to tune.

A new method is tested here by itself, once it stands in METHOD_SPECS, with its defaults. If it has fields that must be
given, or cannot do a task, it needs a line in one of the two tables below; a new LoRA variant, and a new PEFT type that
acts after a step, need none.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lab_fixtures import LABELS
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Example, make_batch
from tunewise.lab.methods import Method, build_method, describe
from tunewise.lab.methods.reallocating import REALLOCATING
from tunewise.lab.models.load import Base, load_base, load_tuned
from tunewise.lab.train.loop import Loop, train
from tunewise.spec import METHOD_SPECS, TASKS, BaseMethod, Task
from tunewise.spec.methods import LORA_NAMES, AnyMethod

# Methods that have more than one form, or fields without a default. Prompt learning is left out: its virtual tokens
# change what the base computes.
FORMS: dict[str, tuple[dict[str, Any], ...]] = {
    "full": ({}, {"extract": {"all-linear": (1,)}}),
    "lora": (
        *({"rank": 2, "variant": variant} for variant in LORA_NAMES),
        {"rank": "auto", "max_rank": 4, "init_scale": 2.0},
    ),
    "peft": (*({"type": kind} for kind in REALLOCATING), {"type": "IA3"}, {"type": "VERA", "options": {"r": 4}}),
    "existing": ({"path": "somewhere"},),
}
TASKS_OF: dict[str, tuple[Task, ...]] = {"head": ("classify",)}  # methods that do not fit every task
SPECS: tuple[AnyMethod, ...] = (
    BaseMethod(),
    *(kind.model_validate(form) for name, kind in METHOD_SPECS.items() for form in FORMS.get(name, ({},))),
)
NEEDS = {"ADAMSS": "sklearn"}  # libraries that peft asks for, which the product does not bring
MODELS = {True: "bert", False: "llama"}  # for tasks with classes, and others
NUM_STEPS = 6


@dataclass(frozen=True)
class Bench:
    """A small base for one task, examples of it, and a method to try on them."""

    spec: Any
    task: Task
    folder: Path
    tokenizer: Any
    examples: list[Example]

    def base(self, seed: int = 0) -> Base:
        """A fresh one, its new weights drawn from `seed`."""
        torch.manual_seed(seed)
        labels = LABELS if TASKS[self.task].has_classes else ()
        return load_base(str(self.folder), self.task, labels, self.tokenizer, False)

    def prepared(self) -> tuple[torch.nn.Module, Method]:
        """A fresh base that is ready to learn by the method."""
        base = self.base()
        method = build_method(self.spec, self.task, NUM_STEPS)
        return method.prepare(base), method

    @torch.no_grad()
    def logits(self, model: torch.nn.Module) -> torch.Tensor:
        """Of all examples; of those places that hold a token."""
        batch = make_batch(self.examples, range(len(self.examples)), padding=0)
        found: torch.Tensor = model.eval()(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
        return found if TASKS[self.task].has_classes else found[batch.attention_mask_BT.bool()]

    def train(self, model: torch.nn.Module, method: Method, num_steps: int = NUM_STEPS) -> list[float]:
        """The loss of every step."""
        batch = make_batch(self.examples, range(len(self.examples)), padding=0)
        loop = Loop(
            optimizer=torch.optim.AdamW(learning(model).values(), lr=0.01),
            rate_factors=[1.0] * num_steps,
            clip_norm=1.0,
            compute=Compute("cpu", "fp32"),
            after_step=method.after_step,
        )
        return [step.loss for step in train(model, [[batch]] * num_steps, loop)]


def learning(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def name_of(spec: AnyMethod) -> str:
    given = spec.model_dump(exclude_defaults=True)
    return " ".join([spec.method, *(f"{key}={value}" for key, value in given.items())])  # type: ignore[attr-defined]


def tasks_of(spec: Any) -> list[Task]:
    """The tasks that a method is tried on: of those that it fits, one for each kind of model."""
    fitting = TASKS_OF.get(spec.method, tuple(TASKS))
    return list({TASKS[task].has_classes: task for task in fitting}.values())


CASES = {
    f"{name_of(spec)}, {task}": (spec.as_trained(is_confirmed=True), task)
    for spec in SPECS
    if spec.is_trained
    for task in tasks_of(spec)
}


@pytest.fixture
def bench(
    request: pytest.FixtureRequest,
    model_folder: Callable[[str], Path],
    tokenizer: Any,
    examples_of: Callable[..., list[Example]],
) -> Bench:
    spec, task = CASES[request.param]
    if (library := NEEDS.get(getattr(spec, "type", ""))) is not None:
        pytest.importorskip(library, reason="peft needs it for this type")
    has_classes = TASKS[task].has_classes
    examples = examples_of([9, 4, 12, 7], classify=has_classes)
    return Bench(spec, task, model_folder(MODELS[has_classes]), tokenizer, examples)


on_every_bench = pytest.mark.parametrize("bench", CASES, indirect=True)
on_every_spec = pytest.mark.parametrize("spec", SPECS, ids=name_of)


# --- what its spec answers


def test_every_method_that_a_study_can_name_is_tried() -> None:
    assert {spec.method for spec in SPECS} == {*METHOD_SPECS, "base"}  # type: ignore[attr-defined]
    trained = {name for name, kind in METHOD_SPECS.items() if kind.is_trained}  # type: ignore[attr-defined]
    assert {spec.method for spec, _ in CASES.values()} == trained  # type: ignore[attr-defined]


@on_every_spec
def test_it_describes_itself_in_words(spec: AnyMethod) -> None:
    words = spec.in_words()
    assert words == words.strip()
    assert words
    assert "Method(" not in words, "a reader meets no class"
    others = [other for other in SPECS if other.as_trained(is_confirmed=False) != spec.as_trained(is_confirmed=False)]
    assert words not in {other.in_words() for other in others}, "two that train differently read alike"


@on_every_spec
@pytest.mark.parametrize("is_confirmed", [False, True])
def test_what_a_run_trains_is_settled_once(spec: AnyMethod, is_confirmed: bool) -> None:
    trained = spec.as_trained(is_confirmed=is_confirmed)
    assert trained.as_trained(is_confirmed=is_confirmed) == trained
    assert type(trained) is type(spec)
    assert not trained.has_open_rank
    assert not trained.truncations
    assert trained.has_open_targets == spec.has_open_targets, "placements become arms of their own"
    assert is_confirmed or not trained.num_extracted, "a trial extracts nothing"
    assert type(spec).model_validate(trained.model_dump()) == trained


# --- what it does to a model


@on_every_bench
def test_it_begins_with_the_function_of_the_base(bench: Bench) -> None:
    expected = bench.logits(bench.base().model)
    found = bench.logits(bench.prepared()[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # pissa and olora take the weight apart


@on_every_bench
def test_it_trains_what_it_says_and_nothing_else(bench: Bench) -> None:
    model, method = bench.prepared()
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}
    learned = learning(model)
    tuned = describe(model, method)
    assert 0 < tuned.trainable_parameters == sum(p.numel() for p in learned.values())
    assert tuned.learned_dtypes == ("float32",)
    assert (method.targets is None) == (tuned.num_target_modules is None)
    assert {*method.fp32_modules} <= {name for name, _ in model.named_modules()}
    losses = bench.train(model, method)
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name][0])}
    assert changed
    assert all(before[name][1] for name in changed), "a frozen weight moved"


@on_every_bench
def test_what_it_saves_computes_the_same_when_read_back(bench: Bench, tmp_path: Path) -> None:
    model, method = bench.prepared()
    bench.train(model, method)
    expected = bench.logits(model)
    method.save(model, tmp_path)
    found = bench.logits(load_tuned(bench.base(seed=1), tmp_path))  # a new head must come from what was saved
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # pissa and olora are saved as plain LoRA
    assert not torch.allclose(found, bench.logits(bench.base().model), rtol=1e-3, atol=1e-3), "training shows"


@on_every_bench
def test_it_goes_on_from_what_it_remembered(bench: Bench) -> None:
    model, method = bench.prepared()
    bench.train(model, method, NUM_STEPS // 2)
    state = {name: tensor.clone() for name, tensor in method.state(model).items()}
    fresh, again = bench.prepared()
    again.restore(fresh, state)
    restored = again.state(fresh)
    assert restored.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(restored[name], tensor), name
