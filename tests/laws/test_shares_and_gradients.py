"""Law 45: a share is of all weights that the model has, and every tensor that is to learn gets a gradient."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from small_models import PADDING, VOCABULARY, language_model, text_windows
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tunewise.errors import SpecError
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import make_batch
from tunewise.lab.methods import Method, build_method, describe
from tunewise.lab.methods.targets import body_parameters, linear_modules, resolve_targets
from tunewise.lab.methods.towers import tower_notes, towers
from tunewise.lab.models.load import Base
from tunewise.lab.train.gradients import GradientWatch
from tunewise.lab.train.loop import Loop, train
from tunewise.lab.train.optim import LearningRates, make_optimizer, parameter_groups
from tunewise.spec import FullMethod, LoraMethod, TrainSpec

TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IMAGES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
EXPERTS = {"num_experts_per_tok": 2}


def config(name: str) -> PreTrainedConfig:
    made: dict[str, Any] = {
        "mixtral": lambda: transformers.MixtralConfig(**TEXT, **EXPERTS, num_local_experts=4),
        "gpt_oss": lambda: transformers.GptOssConfig(**TEXT, **EXPERTS, num_local_experts=4, sliding_window=32),
        "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**TEXT, **EXPERTS, num_experts=4, moe_intermediate_size=24),
        "gemma3": lambda: transformers.Gemma3Config(
            text_config={**TEXT, "sliding_window": 32}, vision_config=IMAGES, mm_tokens_per_image=4
        ),
        "mamba": lambda: transformers.MambaConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4
        ),
        "llama": lambda: transformers.LlamaConfig(**TEXT),
    }
    return made[name]()  # type: ignore[no-any-return]


def base(name: str) -> Base:
    torch.manual_seed(0)
    return Base(AutoModelForCausalLM.from_config(config(name)).eval(), (), ())


def steps(model: torch.nn.Module, method: Method, num_steps: int) -> Iterator[int]:
    """Real steps of a real run's loop; yields while the gradients of each are there."""
    examples = text_windows([4 + i % 40 for i in range(64)], 16)
    settings = TrainSpec()
    groups = parameter_groups(model, (), settings, LearningRates(0.01, None))
    watch = GradientWatch(model, method)
    optimizer, compute = make_optimizer(groups, settings, "cpu"), Compute("cpu", "fp32")
    loop = Loop(optimizer, [1.0] * num_steps, 1.0, compute, lambda *_: watch.look())
    batches = [[make_batch(examples, range(len(examples)), PADDING)]] * num_steps
    for step in train(model, batches, loop):
        yield step.step
    assert not watch.without, "every tensor that learns had a gradient"


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "qwen3_moe"])
def test_law_45_experts_in_one_tensor_count_in_the_share(name: str) -> None:
    """Law 45: of a small mixture of experts nearly all weights are experts; 'linear 100%' was said of it."""
    found = base(name)
    experts = sum(p.numel() for n, p in found.model.named_parameters() if "experts" in n and p.ndim == 3)
    targets = resolve_targets(found, "all-linear")
    adapted = sum(linear_modules(found).values())
    routers = body_parameters(found) - adapted - experts
    assert 0 <= routers < 0.05 * experts
    assert targets.linear_share == pytest.approx(adapted / (adapted + experts + routers))
    assert targets.linear_share < 0.5


def test_law_45_convolutions_count_and_embeddings_do_not() -> None:
    mamba = base("mamba")
    assert resolve_targets(mamba, "all-linear").linear_share < 1
    with pytest.raises(SpecError, match="peft rejects LoRA with targets 'out_proj'.*Mamba"):
        build_method(LoraMethod(rank=2, targets="out_proj"), "lm", 1).prepare(mamba)
    llama = base("llama")
    assert body_parameters(llama) == sum(linear_modules(llama).values())
    assert resolve_targets(llama, "all-linear").linear_share == 1


def test_law_45_a_tower_for_images_is_no_target_of_text_and_counts_in_the_share() -> None:
    found = base("gemma3")
    names = resolve_targets(found, "all-linear").names
    assert names
    assert all("language_model" in name for name in names)
    tower = sum(
        p.numel() for n, p in found.model.named_parameters() if "vision_tower.encoder" in n and n.endswith("weight")
    )
    assert tower, "the model has one"
    assert body_parameters(found) > sum(linear_modules(found).values()) + 0.9 * tower
    assert resolve_targets(found, "all-linear").linear_share < 1
    with pytest.raises(SpecError, match="matches no linear module"):
        resolve_targets(found, "vision_tower.*fc1")


def test_law_45_full_fine_tuning_trains_what_text_passes_through_and_says_what_it_leaves() -> None:
    """All weights of the part for text learn; exactly those without a gradient from text are frozen and named."""
    reads_all = base("gemma3")
    reads_all.model.requires_grad_(True)
    ids = torch.arange(4, 20)[None]
    reads_all.model(input_ids=ids).logits.sum().backward()
    unreached = {name for name, p in reads_all.model.named_parameters() if p.grad is None}
    assert unreached
    assert set(towers(reads_all)) == {"model.vision_tower", "model.multi_modal_projector"}
    found = base("gemma3")
    method = build_method(FullMethod(), "lm", 2)
    model = method.prepare(found)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == unreached
    frozen = {f"{name}.weight" for name in method.fp32_modules}
    assert frozen <= unreached, "saved with the model, so never rounded"
    assert any("vision_tower.encoder" in name for name in frozen)
    (note,) = tower_notes(found)
    assert "every arm trains only the part for text. model.vision_tower, model.multi_modal_projector (" in note
    assert list(steps(model, method, 2)) == [1, 2]


def test_law_45_a_model_of_text_has_no_towers() -> None:
    found = base("llama")
    assert (towers(found), tower_notes(found)) == ((), ())
    model = build_method(FullMethod(), "lm", 1).prepare(found)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "gemma3", "llama", "mamba"])
def test_law_45_every_adapted_tensor_gets_a_gradient_in_the_first_step(name: str) -> None:
    method = build_method(LoraMethod(rank=2), "lm", 2)
    model = method.prepare(base(name))
    assert describe(model, method).linear_share is not None
    assert list(steps(model, method, 2)) == [1, 2]


@dataclass
class Adapted:
    """A method that adapted more than text passes through."""

    targets: Any = ()


def beside_the_data() -> torch.nn.Module:
    """LoRA on the projections of a Llama, and on a layer that its forward pass never calls."""
    model = base("llama").model
    model.model.unused = torch.nn.Linear(32, 32)
    config = LoraConfig(r=2, target_modules=["q_proj", "unused"], task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def test_law_45_a_run_ends_at_its_first_step_if_an_adapted_tensor_is_never_reached() -> None:
    seen = []
    with pytest.raises(
        SpecError, match=r"2 of \d+ trainable tensors got no gradient in the first step, such as .*unused.*lora_A"
    ):
        seen += steps(beside_the_data(), Adapted(), 3)  # type: ignore[arg-type]
    assert seen == [], "before the second step, and before anything is scored"


def test_law_45_what_full_fine_tuning_never_reaches_is_told() -> None:
    """Law 45: full fine-tuning trains whatever the base has, so it goes on; but the record has a warning."""
    model = base("llama").model
    model.model.unused = torch.nn.Linear(32, 32)
    method = build_method(FullMethod(), "lm", 1)
    method.prepare(Base(model, (), ()))
    watch = GradientWatch(model, method)
    model(torch.arange(4, 12)[None]).logits.sum().backward()
    watch.look()
    told: list[str] = []
    watch.finish(told.append)
    assert len(told) == 1
    assert "2 trainable tensors never got a gradient, such as model.unused.bias" in told[0]


def test_law_45_an_expert_that_is_chosen_later_is_waited_for() -> None:
    """Law 45: a router may leave an expert out in the first step; its like in another one had a gradient."""
    model = get_peft_model(base("llama").model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    watch = GradientWatch(model, Adapted())  # type: ignore[arg-type]
    late = {n for n, p in model.named_parameters() if p.requires_grad and ".layers.1." in n}
    for name, parameter in model.named_parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad and name not in late else None
    watch.look()
    assert watch.without == late
    for name, parameter in model.named_parameters():
        if name in late:
            parameter.grad = torch.zeros_like(parameter)
    watch.look()
    told: list[str] = []
    watch.finish(told.append)
    assert told == []


def test_law_45_the_bundled_base_is_covered_as_before() -> None:
    assert resolve_targets(language_model("tiny"), "all-linear").linear_share == 1
