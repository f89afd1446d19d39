"""Laws of the one training loop: its gradient, its schedule, what it does when numbers end."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lab_fixtures import CUTS, LENGTHS, Gradients, relative_difference, without_dropout
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batch, Example, make_batch
from tunewise.lab.methods import build_method
from tunewise.lab.models.load import Base, load_base, load_config, load_tokenizer
from tunewise.lab.train.loop import DivergedError, Loop, Step, train
from tunewise.lab.train.optim import LearningRates, describe_groups, make_optimizer, parameter_groups, rate_factors
from tunewise.spec import LoraMethod, TrainSpec

Load = Callable[..., Base]
Examples = Callable[..., list[Example]]


def cut_into(examples: Sequence[Example], pieces: Sequence[Sequence[int]]) -> list[Batch]:
    return [make_batch(examples, piece, padding=0) for piece in pieces]


def loop_for(model: torch.nn.Module, **changes: Any) -> Loop:
    """A loop with plain SGD at rate 1, so that an update is the gradient itself."""
    learning = [p for p in model.parameters() if p.requires_grad]
    content = {
        "optimizer": torch.optim.SGD(learning, lr=1.0),
        "rate_factors": iter([1.0] * 100),
        "clip_norm": 1e9,
        "compute": Compute("cpu", "fp32"),
        "after_step": lambda model, step: None,
    }
    return Loop(**{**content, **changes})


def gradients_of_a_step(model: torch.nn.Module, micro_batches: list[Batch]) -> tuple[Step, Gradients]:
    """One optimizer step that moves nothing, and the gradient it would have used."""
    model.requires_grad_(True)
    found: Gradients = {}

    def keep(model: torch.nn.Module, step: int) -> None:
        found.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    step = next(train(model, [micro_batches], loop_for(model, rate_factors=[0.0], after_step=keep)))
    return step, found


def bundled() -> Base:
    config = load_config("tiny", "sft", False)
    return load_base("tiny", "sft", (), load_tokenizer("tiny", config, False), False)


@pytest.mark.parametrize("name", ["tiny", "llama"])
def test_the_gradient_of_a_step_does_not_depend_on_how_it_was_cut(
    name: str, language_model: Load, examples_of: Examples
) -> None:
    model = without_dropout((bundled() if name == "tiny" else language_model(name)).model)
    examples = examples_of(LENGTHS)
    reference_step, reference = gradients_of_a_step(model, cut_into(examples, CUTS["8 at once"]))
    for pieces in CUTS.values():
        step, gradients = gradients_of_a_step(model, cut_into(examples, pieces))
        assert relative_difference(gradients, reference) < 1e-5
        assert step.loss == pytest.approx(reference_step.loss, rel=1e-5)
        assert (step.num_targets, step.num_tokens) == (reference_step.num_targets, sum(LENGTHS))
        assert step.gradient_norm == pytest.approx(reference_step.gradient_norm, rel=1e-5)


def test_the_gradient_of_a_classification_does_not_depend_on_how_it_was_cut(
    classifier: Load, examples_of: Examples
) -> None:
    examples = examples_of(LENGTHS, classify=True)
    for name in ("bert", "gpt2"):
        base = classifier(name)
        model = without_dropout(base.model)
        _, reference = gradients_of_a_step(model, cut_into(examples, CUTS["8 at once"]))
        for pieces in CUTS.values():
            _, gradients = gradients_of_a_step(model, cut_into(examples, pieces))
            assert relative_difference(gradients, reference) < 1e-5


def test_the_loss_is_the_mean_over_all_targets_of_the_step(language_model: Load, examples_of: Examples) -> None:
    model, examples = without_dropout(language_model("llama").model), examples_of(LENGTHS)
    total = torch.zeros(())
    model.requires_grad_(True)
    for example in examples:
        ids = torch.tensor([example.input_ids])
        logits_TV = model(input_ids=ids).logits[0]
        first = example.supervised.index(True)
        total = total + F.cross_entropy(logits_TV[first - 1 : -1], ids[0, first:], reduction="sum")
    mean = total / sum(sum(example.supervised) for example in examples)
    mean.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    step, gradients = gradients_of_a_step(model, cut_into(examples, CUTS["uneven"]))
    assert step.loss == pytest.approx(float(mean.detach()), rel=1e-5)
    assert relative_difference(gradients, expected) < 1e-5


def test_prompts_get_no_gradient_from_their_own_tokens(language_model: Load, examples_of: Examples) -> None:
    model, (example,) = without_dropout(language_model("gpt2").model), examples_of([12])
    step, _ = gradients_of_a_step(model, [make_batch([example], [0], padding=0)])
    assert step.num_targets == sum(example.supervised) == 6


# --- the protocol with the caller


def steps_of(model: torch.nn.Module, examples: Sequence[Example], count: int, **changes: Any) -> Iterator[Step]:
    model.requires_grad_(True)
    batches = [cut_into(examples, CUTS["2 times 4"]) for _ in range(count)]
    return train(model, batches, loop_for(model, **changes))


def test_after_step_is_called_once_per_step_after_the_update_and_before_the_gradient_is_cleared(
    language_model: Load, examples_of: Examples
) -> None:
    model = without_dropout(language_model("gpt2").model)
    weight = model.get_input_embeddings().weight
    calls = []
    before = weight.detach().clone()

    def look(seen: torch.nn.Module, step: int) -> None:
        assert seen is model
        assert weight.grad is not None
        assert not torch.equal(weight.detach(), before)
        calls.append(step)

    for step in steps_of(model, examples_of(LENGTHS), 3, after_step=look):
        assert len(calls) == step.step
        assert weight.grad is None
        before = weight.detach().clone()
    assert calls == [0, 1, 2]


def test_every_step_trains_even_where_the_caller_evaluated_in_between(
    language_model: Load, examples_of: Examples
) -> None:
    model = language_model("gpt2").model
    modes = []
    model.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    for _ in steps_of(model, examples_of(LENGTHS), 3):
        model.eval()
    assert modes == [True] * 6


def test_steps_are_counted_from_one_and_end_with_the_batches(language_model: Load, examples_of: Examples) -> None:
    model = without_dropout(language_model("gpt2").model)
    steps = list(steps_of(model, examples_of(LENGTHS), 4, rate_factors=iter([0.5, 1.0, 0.25, 0.125])))
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert [step.learning_rate for step in steps] == [0.5, 1.0, 0.25, 0.125]
    assert all(step.seconds > 0 for step in steps)


def test_every_group_follows_the_schedule_at_its_own_rate(language_model: Load, examples_of: Examples) -> None:
    model = without_dropout(language_model("gpt2").model)
    weights = list(model.parameters())[:2]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 0.1}, {"params": weights[1:], "lr": 0.3}])
    seen = []
    for _ in steps_of(model, examples_of(LENGTHS), 2, optimizer=optimizer, rate_factors=iter([1.0, 0.5])):
        seen.append([group["lr"] for group in optimizer.param_groups])
    assert seen == [[0.1, 0.3], [0.05, 0.15]]


def test_the_update_uses_the_clipped_gradient_of_the_whole_model(language_model: Load, examples_of: Examples) -> None:
    model = without_dropout(language_model("gpt2").model)
    before = [p.detach().clone() for p in model.parameters()]
    (step,) = steps_of(model, examples_of(LENGTHS), 1, clip_norm=0.01)
    moved = math.sqrt(
        sum(float((p.detach() - b).square().sum()) for p, b in zip(model.parameters(), before, strict=True))
    )
    assert step.gradient_norm > 0.1, "reported as it was"
    assert moved == pytest.approx(0.01, rel=1e-3)


# --- divergence


def test_a_loss_that_is_no_number_stops_before_the_update(language_model: Load, examples_of: Examples) -> None:
    model = without_dropout(language_model("gpt2").model)
    steps = steps_of(model, examples_of(LENGTHS), 3)
    next(steps)
    with torch.no_grad():
        model.get_input_embeddings().weight[5] = math.inf
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(DivergedError, match="step 2: loss"):
        next(steps)
    assert all(torch.equal(p.detach(), before[name]) for name, p in model.named_parameters())


def test_a_gradient_that_is_no_number_stops_before_the_update(language_model: Load, examples_of: Examples) -> None:
    model = without_dropout(language_model("gpt2").model)
    model.get_input_embeddings().weight.register_hook(lambda gradient: gradient * math.inf)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(DivergedError, match=r"step 1: loss \d.*gradient norm (nan|inf)"):
        next(steps_of(model, examples_of(LENGTHS), 1))
    assert all(torch.equal(p.detach(), before[name]) for name, p in model.named_parameters())


# --- schedule and groups


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3, 0.99])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 100])
def test_the_rate_warms_up_from_one_nth_peaks_at_one_and_never_reaches_zero(
    schedule: Any, warmup: float, num_steps: int
) -> None:
    factors = list(rate_factors(TrainSpec(schedule=schedule, warmup=warmup), num_steps))
    warm = round(warmup * num_steps)
    assert len(factors) == num_steps
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1
    assert factors[:warm] == pytest.approx([(step + 1) / warm for step in range(warm)])
    assert factors[warm:] == sorted(factors[warm:], reverse=True)
    if schedule == "constant":
        assert set(factors[warm:]) <= {1.0}
    elif num_steps - warm > 1:
        assert factors[-1] < factors[warm]


def test_the_linear_schedule_falls_evenly_to_one_nth() -> None:
    assert list(rate_factors(TrainSpec(warmup=0.0), 4)) == pytest.approx([1, 0.75, 0.5, 0.25])
    cosine = list(rate_factors(TrainSpec(warmup=0.0, schedule="cosine"), 4))
    assert cosine == pytest.approx([1, 0.5 + 0.25 * math.sqrt(2), 0.5, 0.5 - 0.25 * math.sqrt(2)])


def test_matrices_decay_and_vectors_do_not_and_everything_that_learns_is_in_one_group(classifier: Load) -> None:
    base = classifier("bert")
    base.model.requires_grad_(True)
    base.model.get_input_embeddings().weight.requires_grad_(False)
    train_spec = TrainSpec(weight_decay=0.07)
    groups = parameter_groups(base.model, base.head_modules, train_spec, LearningRates(1e-3, 5e-2))
    grouped: list[torch.nn.Parameter] = [p for group in groups for p in group["params"]]  # type: ignore[attr-defined]
    assert sorted(map(id, grouped)) == sorted(id(p) for p in base.model.parameters() if p.requires_grad)
    heads = {id(p) for name in base.head_modules for p in base.model.get_submodule(name).parameters()}
    for group in groups:
        for p in group["params"]:  # type: ignore[attr-defined]
            assert group["weight_decay"] == (0.07 if p.dim() >= 2 else 0.0)
            assert group["lr"] == (5e-2 if id(p) in heads else 1e-3)


def test_the_policy_of_groups_is_the_same_in_every_arm(classifier: Load) -> None:
    heads = {}
    for name in ("full", "lora"):
        base = classifier("roberta")
        if name == "full":
            model = base.model.requires_grad_(True)
        else:
            model = build_method(LoraMethod(rank=2), "classify", 1).prepare(base)
        groups = parameter_groups(model, base.head_modules, TrainSpec(), LearningRates(1e-3, 5e-2))
        heads[name] = {
            group["name"]: [tuple(p.shape) for p in group["params"]]  # type: ignore[attr-defined]
            for group in groups
            if str(group["name"]).startswith("head")
        }
    assert heads["full"] == heads["lora"]
    assert set(heads["full"]) == {"head, decayed", "head, not decayed"}


def test_groups_are_described_with_count_rate_and_decay(classifier: Load) -> None:
    base = classifier("gpt2")
    groups = parameter_groups(base.model, base.head_modules, TrainSpec(weight_decay=0.1), LearningRates(1e-3, 0.5))
    lines = describe_groups(make_optimizer(groups, TrainSpec(), "cpu"))
    assert "head, decayed: 96 parameters, learning rate 0.5, weight decay 0.1" in lines
    assert any(line.startswith("body, not decayed: ") and line.endswith("weight decay 0") for line in lines)
