"""Laws 12, 14, 21, 22, 23 and 36: the seed, what learns, by which policy, in which precision, at which scale."""

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_models import PADDING, STORIES, classifier, labelled_examples, language_model, save_small_model, text_windows
from transformers import AutoTokenizer, set_seed

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import make_batch
from tunewise.lab.methods import Method, build_method, describe
from tunewise.lab.models.load import BUNDLED, LINEAR
from tunewise.lab.train.loop import Loop, train
from tunewise.lab.train.loss import example_losses
from tunewise.lab.train.optim import LearningRates, describe_groups, make_optimizer, parameter_groups, rate_factors
from tunewise.lab.train.updates import UpdateWatch
from tunewise.lab.weights.precision import assert_masters, store_frozen_weights
from tunewise.spec import FullMethod, HeadMethod, LoraMethod, PeftMethod, TrainSpec

TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 3
REAL_MODELS = [
    pytest.param(BUNDLED["tiny"], id="tiny"),
    pytest.param(
        STORIES, id="stories260k", marks=pytest.mark.skipif(not STORIES.is_dir(), reason="../shared is not here")
    ),
]
ADAPTERS: dict[str, Any] = {
    "lora": LoraMethod(rank=4),
    "rslora": LoraMethod(rank=4, variant="rslora", targets="qkv"),
    "dora": PeftMethod(type="LORA", options={"r": 4, "use_dora": True}),
}


def windows(folder: Path, length: int = 24) -> list[Any]:
    return text_windows(AutoTokenizer.from_pretrained(folder)(TEXT).input_ids, length)


def prepared(folder: Path, method: Any, seed: int = 0) -> tuple[torch.nn.Module, Method]:
    set_seed(seed)
    chosen = build_method(method, "lm", 10)
    return chosen.prepare(language_model(str(folder))), chosen


def train_steps(model: torch.nn.Module, folder: Path, num_steps: int, rate: float = 1e-3, **loop: Any) -> Any:
    """Steps of the loop with the optimizer and schedule of a run, a window of text each."""
    settings, examples = TrainSpec(), windows(folder)
    optimizer = make_optimizer(parameter_groups(model, (), settings, LearningRates(rate, None)), settings, "cpu")
    batches = ([make_batch(examples, [step % len(examples)], PADDING)] for step in range(num_steps))
    content = {"compute": Compute("cpu", "fp32"), "after_step": lambda model, step: None, **loop}
    if watch := content.pop("watch", None):
        watch.optimizer = optimizer
    return train(model, batches, Loop(optimizer, rate_factors(settings, num_steps), 1.0, **content))


# --- law 12


def adapter_hash(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            digest.update(name.encode() + parameter.detach().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("folder", REAL_MODELS)
@pytest.mark.parametrize("name", ADAPTERS)
def test_law_12_the_seed_covers_the_initialisation_of_adapters(folder: Path, name: str) -> None:
    """Law 12: the same seed draws the same adapter, bit for bit, and another seed another one."""
    first, again, other = (adapter_hash(prepared(folder, ADAPTERS[name], seed)[0]) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("family", ["bert", "roberta", "qwen2"])
def test_law_12_a_new_head_is_the_same_in_every_arm_of_a_seed(family: str, tmp_path: Path) -> None:
    """Law 12: a head that the checkpoint did not bring is drawn from the seed too: the same in every arm."""
    folder = save_small_model(family, tmp_path / "model")

    def head(method: Any, seed: int) -> list[torch.Tensor]:
        base = classifier(folder, seed)
        parameters = dict(build_method(method, "classify", 1).prepare(base).named_parameters())
        ours = [n for n in parameters if any(f".{module}." in f".{n}" for module in base.head_modules)]
        return [parameters[n] for n in sorted(ours) if parameters[n].requires_grad]

    full, lora, only_head, other = (
        head(m, s) for m, s in ((FullMethod(), 1), (LoraMethod(rank=2), 1), (HeadMethod(), 1), (FullMethod(), 2))
    )
    assert len(full) == len(lora) == len(only_head) > 0
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(full, lora, only_head, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(full, other, strict=True))


# --- law 14


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient checkpointing"])
@pytest.mark.parametrize("folder", REAL_MODELS)
@pytest.mark.parametrize("method", [FullMethod(), LoraMethod(rank=4)], ids=["full", "lora"])
def test_law_14_after_the_first_step_everything_that_learns_has_learned(
    folder: Path, method: Any, checkpointing: bool
) -> None:
    """Law 14: warm-up begins at 1/n and not at 0, so after the first step every trainable tensor has had a finite
    gradient and every lora_B, which began as 0, is not 0."""
    model, _ = prepared(folder, method)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    began = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    assert all(not began[name].any() for name in began if "lora_B" in name)
    seen: dict[str, torch.Tensor] = {}

    def keep(model: torch.nn.Module, step: int) -> None:
        seen.update({name: p.grad for name, p in model.named_parameters() if p.grad is not None})

    step = next(iter(train_steps(model, folder, 100, after_step=keep)))
    assert step.learning_rate == pytest.approx(1e-3 / 5)  # 5% of 100 steps warm up: a fifth at the first
    assert seen.keys() == began.keys()
    assert all(torch.isfinite(gradient).all() for gradient in seen.values())
    now = dict(model.named_parameters())
    for name, before in began.items():
        if "lora_A" in name:
            continue  # its gradient is a multiple of B, which began as 0
        assert not torch.equal(now[name].detach(), before), f"{name} did not move"


# --- law 21


def test_law_21_decay_and_groups_follow_one_policy_in_every_arm_and_are_printed(tmp_path: Path) -> None:
    """Law 21: matrices decay, biases and norms do not, heads have a group of their own, in every arm alike; what is
    printed is what the optimizer was given."""
    folder = save_small_model("bert", tmp_path / "model")
    settings = TrainSpec(weight_decay=0.05)
    heads = {}
    for name, method in {"full": FullMethod(), "lora": LoraMethod(rank=2), "head": HeadMethod()}.items():
        base = classifier(folder, seed=0)
        model = build_method(method, "classify", 1).prepare(base)
        optimizer = make_optimizer(
            parameter_groups(model, base.head_modules, settings, LearningRates(1e-3, 7e-3)), settings, "cpu"
        )
        learning = [p for p in model.parameters() if p.requires_grad]
        grouped = [p for group in optimizer.param_groups for p in group["params"]]
        assert sorted(map(id, grouped)) == sorted(map(id, learning)), "every weight is in one group"
        for group, line in zip(optimizer.param_groups, describe_groups(optimizer), strict=True):
            in_head = str(group["name"]).startswith("head")
            assert group["lr"] == (7e-3 if in_head else 1e-3)
            assert all(group["weight_decay"] == (0.05 if p.dim() >= 2 else 0.0) for p in group["params"])
            count = sum(p.numel() for p in group["params"])
            expected = f"{group['name']}: {count:,} parameters, learning rate {group['lr']:g}, "
            assert line == f"{expected}weight decay {group['weight_decay']:g}"
        heads[name] = [line for line in describe_groups(optimizer) if line.startswith("head")]
    assert heads["full"] == heads["lora"] == heads["head"]
    assert len(heads["full"]) == 2


# --- law 22


@pytest.mark.parametrize("folder", REAL_MODELS)
@pytest.mark.parametrize("method", [FullMethod(), LoraMethod(rank=4)], ids=["full", "lora"])
def test_law_22_what_learns_is_fp32_whatever_the_checkpoint_and_keeps_its_updates(
    folder: Path, method: Any, tmp_path: Path
) -> None:
    """Law 22: a bf16 checkpoint is trained with fp32 master weights in every arm, and the share of updates that
    change the stored value is recorded: 1 here."""
    stored = language_model(str(folder)).model.to(torch.bfloat16)
    stored.save_pretrained(tmp_path / "bf16")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "bf16")
    model, _ = prepared(tmp_path / "bf16", method)
    store_frozen_weights(model, "bf16")
    assert_masters(model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}

    watch = UpdateWatch(torch.optim.SGD(model.parameters()))

    def observe(model: torch.nn.Module, index: int) -> None:
        watch.compare(index + 1)
        watch.remember(index + 1)

    steps = list(
        train_steps(model, folder, 22, rate=1e-5, compute=Compute("cpu", "bf16"), watch=watch, after_step=observe)
    )
    assert len(steps) == 22
    assert len(watch.shares) == 19  # steps 2 to 20
    share = watch.median()
    assert share is not None
    assert share > 0.99


def test_law_22_the_record_would_show_updates_that_rounding_swallows() -> None:
    """Law 22: weights of N(0, 0.02) kept in bf16 have 8 bits, so a step of 1e-5 is under half a unit in the last
    place of all weights above about 0.005, and is lost; the same step is kept in fp32."""
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        weight = torch.nn.Parameter((0.02 * torch.randn(4096, generator=torch.Generator().manual_seed(0))).to(dtype))
        optimizer = torch.optim.AdamW([weight], lr=1e-5, weight_decay=0.0)
        watch = UpdateWatch(optimizer)
        for step in range(1, 6):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
            watch.compare(step)
            watch.remember(step)
        found[dtype] = watch.median()
    assert found[torch.float32] == 1.0
    assert found[torch.bfloat16] is not None
    assert 0.05 < found[torch.bfloat16] < 0.3


@pytest.mark.parametrize("method", [LoraMethod(rank=2), HeadMethod()], ids=["lora", "head"])
def test_law_22_heads_learn_in_fp32_beside_a_frozen_bf16_body(method: Any, tmp_path: Path) -> None:
    """Law 22: with frozen weights stored in bf16, the head and what the checkpoint lacks stay fp32."""
    base = classifier(save_small_model("roberta", tmp_path / "model"), seed=0)
    model = build_method(method, "classify", 1).prepare(base)
    store_frozen_weights(model, "bf16")
    frozen = {p.dtype for m in model.modules() if isinstance(m, LINEAR) for p in [m.weight] if not p.requires_grad}
    assert torch.bfloat16 in frozen
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


# --- law 23


@pytest.mark.parametrize(("rank", "alpha"), [(1, 32.0), (8, 32.0), (8, 16.0), (64, 32.0)])
@pytest.mark.parametrize("variant", ["plain", "rslora"])
def test_law_23_the_update_is_scaled_as_the_study_says_and_the_scale_is_told(
    rank: int, alpha: float, variant: Any
) -> None:
    """Law 23: the model computes W x + scale * B A x with scale = alpha / rank (rsLoRA: alpha / sqrt(rank)), and the
    record says this scale; alpha is never taken from another rank."""
    method = LoraMethod(rank=rank, alpha=alpha, variant=variant, targets=("c_fc",))
    expected = alpha / (math.sqrt(rank) if variant == "rslora" else rank)
    model, chosen = prepared(BUNDLED["tiny"], method)
    assert describe(model, chosen).scale == pytest.approx(expected)
    layer = next(m for n, m in model.named_modules() if n.endswith("h.0.mlp.c_fc"))
    a_RI, b_OR = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b_OR.normal_(generator=torch.Generator().manual_seed(1))
        x_I = torch.randn(a_RI.shape[1], generator=torch.Generator().manual_seed(2))
        added_O = layer(x_I[None])[0] - layer.base_layer(x_I[None])[0]
        assert torch.allclose(added_O, expected * (b_OR @ (a_RI @ x_I)), rtol=1e-4, atol=1e-4)


def test_law_23_alpha_has_one_default_and_no_unknown_spelling_passes() -> None:
    """Law 23: alpha is 32 unless the study says otherwise, for every rank; a misspelt alpha is an error."""
    assert {LoraMethod(rank=rank).alpha for rank in (1, 8, 256)} == {32.0}
    with pytest.raises(ValidationError):
        LoraMethod.model_validate({"rank": 8, "lora_alpha": 16})


@pytest.mark.parametrize(("options", "scale"), [({"r": 64}, 8 / 64), ({"r": 4, "lora_alpha": 6}, 1.5)])
def test_law_23_the_scale_that_a_peft_arm_takes_is_told(options: dict[str, Any], scale: float) -> None:
    """Law 23: peft's own alpha is 8 whatever the rank, so a `peft` arm of type LORA tells the scale that acts."""
    model, chosen = prepared(BUNDLED["tiny"], PeftMethod(type="LORA", options={"target_modules": "c_fc", **options}))
    assert describe(model, chosen).scale == pytest.approx(scale)
    layer = next(m for n, m in model.named_modules() if n.endswith("h.0.mlp.c_fc"))
    a_RI, b_OR = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b_OR.normal_(generator=torch.Generator().manual_seed(1))
        x_I = torch.randn(a_RI.shape[1], generator=torch.Generator().manual_seed(2))
        added_O = layer(x_I[None])[0] - layer.base_layer(x_I[None])[0]
        assert torch.allclose(added_O, scale * (b_OR @ (a_RI @ x_I)), rtol=1e-4, atol=1e-4)


# --- law 36


@pytest.mark.parametrize("folder", REAL_MODELS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_law_36_at_step_0_full_and_lora_are_the_same_function(folder: Path, precision: Any) -> None:
    """Law 36: before the first step the logits of full fine-tuning and of LoRA (B = 0) are equal bit for bit under the
    precision of training, so no arm begins with a better or worse base."""
    batch = make_batch(windows(folder), range(2), PADDING)
    logits = []
    for method in (FullMethod(), LoraMethod(rank=4), LoraMethod(rank=4, targets="qkv", variant="rslora")):
        model, _ = prepared(folder, method)
        store_frozen_weights(model, precision)
        with torch.no_grad(), Compute("cpu", precision).autocast():
            logits.append(model.eval()(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits)
            logits.append(example_losses(model, batch).nll_B)
    for other in (2, 4):
        assert torch.equal(logits[0], logits[other])
        assert torch.equal(logits[1], logits[other + 1])


@pytest.mark.parametrize("family", ["bert", "roberta", "qwen2"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_law_36_holds_for_classifiers(family: str, precision: Any, tmp_path: Path) -> None:
    """Law 36: the same for classifiers, whose head is drawn from the seed."""
    folder = save_small_model(family, tmp_path / "model")
    batch = make_batch(labelled_examples([7, 12, 5]), range(3), PADDING)
    found = []
    for method in (FullMethod(), LoraMethod(rank=2), HeadMethod()):
        model = build_method(method, "classify", 1).prepare(classifier(folder, seed=4))
        store_frozen_weights(model, precision)
        with torch.no_grad(), Compute("cpu", precision).autocast():
            found.append(model.eval()(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
