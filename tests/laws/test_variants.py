"""Laws 19 and 29: every LoRA variant is taken off again as it was put on, and is read back as it was saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from packaging.version import Version
from peft import PeftModel
from pydantic import ValidationError

from tunewise.errors import SpecError
from tunewise.lab.data.batching import Example, make_batch
from tunewise.lab.methods import Method, build_method
from tunewise.lab.models.load import Base, load_tuned
from tunewise.lab.weights.precision import store_frozen_weights
from tunewise.spec import LoraMethod, PeftMethod

Load = Callable[..., Base]
Examples = Callable[..., list[Example]]
PADDING = 0
# Each as an arm says it, and the initializations that only `method: peft` reaches.
VARIANTS = {name: LoraMethod(rank=4, variant=name) for name in ("plain", "rslora", "dora", "pissa", "olora")}
STARTS = {
    name: PeftMethod(type="LORA", options={"r": 4, "lora_alpha": 6, "init_lora_weights": name, "use_rslora": rslora})
    for name, rslora in {"gaussian": False, "orthogonal": False, "pissa_niter_4": True, "olora": True}.items()
}
KEEPS_FP32 = ("dora", "pissa", "olora")
FAMILIES = ("gpt2", "llama")  # Conv1D and tied embeddings; Linear and untied ones


def arms(family: str) -> dict[str, Any]:
    """Every variant and initialisation that this family allows."""
    both = {**VARIANTS, **{f"peft {name}": start for name, start in STARTS.items()}}
    return {name: arm for name, arm in both.items() if family != "gpt2" or not name.endswith("olora")}


EVERY_ARM = [pytest.param(family, name, id=f"{family}-{name}") for family in FAMILIES for name in arms(family)]


@torch.no_grad()
def logits(model: torch.nn.Module, examples: list[Example]) -> torch.Tensor:
    batch = make_batch(examples, range(len(examples)), PADDING)
    found: torch.Tensor = model.eval()(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
    return found


@torch.no_grad()
def shaken(method: Method, base: Base) -> torch.nn.Module:
    """The prepared model, all that learns moved, as training would."""
    torch.manual_seed(3)
    model = method.prepare(base)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.05 * torch.randn(parameter.shape)
    return model


def frozen_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith("base_layer.weight")}


# --- law 19


@pytest.mark.parametrize(("family", "name"), EVERY_ARM)
def test_law_19_unmerging_gives_the_base_back(
    family: str, name: str, language_model: Load, examples_of: Examples
) -> None:
    """Law 19: merging gives the adapter's logits and unmerging the weights from before, on Conv1D and on Linear."""
    if (family, name) == ("gpt2", "dora") and Version(peft.__version__) < Version("0.21"):
        pytest.skip("peft cannot unmerge DoRA from Conv1D before 0.21; no study unmerges")
    examples = examples_of([9, 5, 12])
    model: Any = shaken(build_method(arms(family)[name], "sft", 1), language_model(family))
    before, adapted = frozen_weights(model), logits(model, examples)
    model.merge_adapter()
    assert all(not torch.equal(weight, before[key]) for key, weight in frozen_weights(model).items())
    torch.testing.assert_close(logits(model, examples), adapted, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    for key, weight in frozen_weights(model).items():
        torch.testing.assert_close(weight, before[key], rtol=0, atol=1e-6 * float(before[key].abs().max()))


# --- law 29


@pytest.mark.parametrize(("family", "name"), EVERY_ARM)
def test_law_29_an_adapter_saved_and_read_back_gives_equal_logits(
    family: str, name: str, language_model: Load, examples_of: Examples, tmp_path: Path
) -> None:
    """Law 29: the untrained adapter computes the base, and the trained one, read back onto the untouched base by plain
    peft, computes what it did."""
    examples = examples_of([9, 5, 12])
    method = build_method(arms(family)[name], "sft", 1)
    untouched = logits(language_model(family).model, examples)
    torch.testing.assert_close(logits(method.prepare(language_model(family)), examples), untouched, rtol=0, atol=1e-5)
    model = shaken(method, language_model(family))
    trained = logits(model, examples)
    assert (trained - untouched).abs().max() > 0.01
    method.save(model, tmp_path)
    again = PeftModel.from_pretrained(language_model(family).model, tmp_path)
    torch.testing.assert_close(logits(again, examples), trained, rtol=0, atol=1e-5)
    with again.disable_adapter():
        assert torch.equal(logits(again, examples), untouched), "reading it back leaves the base alone"


@pytest.mark.parametrize("name", ["pissa", "olora", "dora"])
def test_law_29_a_head_beside_the_adapter_is_read_back_too(
    name: str, classifier: Load, examples_of: Examples, tmp_path: Path
) -> None:
    """Law 29: what learns beside the factors is saved with them, whatever the initialisation."""
    examples = examples_of([9, 5, 12], classify=True)
    method = build_method(VARIANTS[name], "classify", 1)
    model = shaken(method, classifier("bert", seed=1))
    method.save(model, tmp_path)
    again = load_tuned(classifier("bert", seed=2), tmp_path)
    torch.testing.assert_close(logits(again, examples), logits(model, examples), rtol=0, atol=1e-5)


def test_law_29_olora_on_conv1d_is_refused_before_training(language_model: Load) -> None:
    """Law 29: OLoRA splits the wrong side of a Conv1D weight, so it is refused before anything is trained."""
    for method in (VARIANTS["olora"], STARTS["olora"]):
        with pytest.raises(SpecError, match=r"Conv1D modules of this model \(GPT-2\). Use pissa"):
            build_method(method, "sft", 1).prepare(language_model("gpt2"))


@pytest.mark.parametrize("start", ["eva", "corda", "lora_ga", "loftq"])
def test_law_29_an_initialisation_that_needs_more_than_weights_is_refused_before_training(
    start: str, language_model: Load
) -> None:
    """Law 29: peft would draw A as always where the statistics of EVA or LoRA-GA are missing, and say nothing."""
    options = {"init_lora_weights": start, **({"loftq_config": {"loftq_bits": 4}} if start == "loftq" else {})}
    with pytest.raises(SpecError, match=f"'{start}' needs .*Use pissa or olora"):
        build_method(PeftMethod(type="LORA", options=options), "sft", 1).prepare(language_model("llama"))


def test_law_29_two_changes_of_the_weight_at_once_are_refused(language_model: Load) -> None:
    """Law 29: the part that PiSSA takes out of the base and a magnitude on top of it cannot be told apart later."""
    options = {"init_lora_weights": "pissa", "use_dora": True}
    with pytest.raises(SpecError, match="with use_dora cannot be saved"):
        build_method(PeftMethod(type="LORA", options=options), "sft", 1).prepare(language_model("llama"))


def test_law_29_more_rank_than_the_weight_has_directions_is_refused(language_model: Load) -> None:
    """Law 29: peft would build factors smaller than the rank it saves, which cannot be read back."""
    assert build_method(LoraMethod(rank=16, variant="pissa"), "sft", 1).prepare(language_model("llama"))
    with pytest.raises(SpecError, match="the smallest target has 16 directions, but got rank 17"):
        build_method(LoraMethod(rank=17, variant="pissa"), "sft", 1).prepare(language_model("llama"))


def test_law_29_loftq_is_refused_by_name() -> None:
    """Law 29: LoftQ needs a quantised base, and no arm begins from one."""
    with pytest.raises(ValidationError, match="loftq rounds the base with a quantizer of its own"):
        LoraMethod(variant="loftq")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["plain", "rslora", "dora", "pissa", "olora"])
def test_law_29_pissa_and_dora_keep_their_base_in_fp32(family: str, name: str, language_model: Load) -> None:
    """Law 29: mixed precision rounds the frozen weights of plain LoRA, but neither what PiSSA and OLoRA leave of the
    weight nor what DoRA takes norms of; modules without an adapter are rounded in every arm."""
    if (family, name) == ("gpt2", "olora"):
        pytest.skip("refused before training")
    method = build_method(LoraMethod(rank=4, variant=name, targets="mlp"), "sft", 1)  # type: ignore[arg-type]
    model = method.prepare(language_model(family))
    store_frozen_weights(model, "bf16", method.fp32_modules)
    adapted = {p.dtype for n, p in model.named_parameters() if n.endswith("base_layer.weight")}
    assert adapted == {torch.float32 if name in KEEPS_FP32 else torch.bfloat16}
    others = {p.dtype for n, p in model.named_parameters() if ".attn.c_attn.weight" in n or ".q_proj.weight" in n}
    assert others == {torch.bfloat16}
