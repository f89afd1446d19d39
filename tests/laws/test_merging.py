"""Laws 16, 17 and 18: what is merged computes what the adapter did, and what that costs is measured and said."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, VeraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tunewise.adapter.records import Merging, Rounding, Stored
from tunewise.errors import DataError, ModelError
from tunewise.lab.adapters.load import AdapterFolder
from tunewise.lab.adapters.merge import MergePlan, merge
from tunewise.lab.adapters.rows import ScoredRows, rows_of
from tunewise.lab.data.batching import Example, make_batch
from tunewise.lab.models.load import BUNDLED
from tunewise.spec import DataSpec

Folders = Callable[[str], Path]
Examples = Callable[..., list[Example]]
BITSANDBYTES = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes (the extra 'quant')")
EMBEDDING = {"gpt2": "wte", "gemma": "embed_tokens", "llama": "embed_tokens"}
PROJECTION = {"gpt2": "c_attn", "gemma": "q_proj", "llama": "q_proj"}
# What an adapter may change beside the projections: the head or the embedding, one tensor where they are tied.
REACHES: dict[str, Callable[[str], dict[str, Any]]] = {
    "projections": lambda family: {"target_modules": [PROJECTION[family]]},
    "head too": lambda family: {"target_modules": [PROJECTION[family], "lm_head"]},
    "embedding too": lambda family: {"target_modules": [PROJECTION[family], EMBEDDING[family]]},
    "head saved": lambda family: {"target_modules": [PROJECTION[family]], "modules_to_save": ["lm_head"]},
    "dora": lambda family: {"target_modules": [PROJECTION[family]], "use_dora": True},
    "by a regex": lambda family: {"target_modules": f".*({PROJECTION[family]}|lm_head)"},
}


@torch.no_grad()
def logits(model: torch.nn.Module, examples: list[Example]) -> torch.Tensor:
    batch = make_batch(examples, range(len(examples)), padding=0)
    found: torch.Tensor = model.eval()(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
    return found


@torch.no_grad()
def save_adapter(base: Path, folder: Path, config: Any, auto: Any = AutoModelForCausalLM, **options: Any) -> Path:
    """An adapter made with plain peft, all that it learns moved, as training would."""
    torch.manual_seed(3)
    model = get_peft_model(auto.from_pretrained(base, **options), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    return folder


def merged(
    folder: Path, examples: list[Example], out: Path, stored: Stored = "fp32", trained_on: Rounding = "whole"
) -> Merging:
    rows = ScoredRows(tuple(examples), "random ids", True, "sft")
    return merge(MergePlan(AdapterFolder.open(folder, None), trained_on, trained_on, stored, out), rows)


# --- law 16


@pytest.mark.parametrize("family", EMBEDDING)
@pytest.mark.parametrize("reach", REACHES)
def test_law_16_merged_stored_and_read_back_gives_the_adapters_logits(
    family: str, reach: str, model_folder: Folders, examples_of: Examples, tmp_path: Path
) -> None:
    """Law 16: with embeddings tied (GPT-2, Gemma) and untied (Llama), and also where the adapter changes one of the two
    that share a tensor."""
    examples = examples_of([9, 5, 12])
    base = model_folder(family)
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **REACHES[reach](family))
    folder = save_adapter(base, tmp_path / "adapter", config)
    adapted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder), examples)
    report = merged(folder, examples, tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again, examples), adapted, rtol=1e-4, atol=1e-5)
    assert (adapted - logits(AutoModelForCausalLM.from_pretrained(base), examples)).abs().max() > 1e-3
    assert [form.form for form in report.forms] == ["adapter", "merged, fp32", "read back, fp32"]
    assert all(form.max_logit_difference < 1e-4 for form in report.forms)


@pytest.mark.parametrize("family", ["distilbert", "roberta", "gpt2"])
def test_law_16_a_classifier_is_merged_with_its_head(
    family: str, model_folder: Folders, examples_of: Examples, tmp_path: Path
) -> None:
    """Law 16: the trained head is part of what is merged, stored and read back; how many classes there are is told by
    the adapter's own head."""
    examples = examples_of([9, 5, 12], classify=True)
    auto, options = AutoModelForSequenceClassification, {"num_labels": 3, "pad_token_id": 0}
    projection = {"gpt2": "c_attn", "distilbert": "q_lin", "roberta": "query"}[family]
    heads = ["pre_classifier", "classifier"] if family == "distilbert" else None
    config = LoraConfig(r=4, task_type="SEQ_CLS", target_modules=[projection], modules_to_save=heads)
    folder = save_adapter(model_folder(family), tmp_path / "adapter", config, auto, **options)
    adapted = PeftModel.from_pretrained(auto.from_pretrained(model_folder(family), **options), folder)
    report = merged(folder, examples, tmp_path / "merged")
    again = auto.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again, examples), logits(adapted, examples), rtol=1e-4, atol=1e-5)
    assert report.forms[-1].accuracy == report.forms[0].accuracy is not None


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], lora_bias=True),
        LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], alora_invocation_tokens=[5, 6]),
    ],
    ids=["prompt tuning", "a bias without a place", "activated lora"],
)
def test_law_16_what_cannot_be_merged_is_refused(
    config: Any, model_folder: Folders, examples_of: Examples, tmp_path: Path
) -> None:
    """Law 16: an adapter that is no change of the base's weights is refused, and nothing is written."""
    folder = save_adapter(model_folder("llama"), tmp_path / "adapter", config)
    with pytest.raises(ModelError, match="cannot be merged"):
        merged(folder, examples_of([9, 5]), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_law_16_another_base_is_refused(model_folder: Folders, examples_of: Examples, tmp_path: Path) -> None:
    """Law 16: an adapter of another shape does not end up in the weights; nor does one overwrite a folder in use."""
    vera = VeraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"])
    folder = save_adapter(model_folder("gpt2"), tmp_path / "adapter", vera)
    adapter = AdapterFolder.open(folder, str(BUNDLED["tiny"]))
    rows = ScoredRows(tuple(examples_of([9, 5])), "random ids", True, "sft")
    with pytest.raises(ModelError, match="does not fit"):
        merge(MergePlan(adapter, "whole", "whole", "fp32", tmp_path / "merged"), rows)
    assert merged(folder, examples_of([9, 5]), tmp_path / "merged").forms[-1].max_logit_difference < 1e-4
    with pytest.raises(ModelError, match="is not empty"):
        merged(folder, examples_of([9, 5]), tmp_path / "merged")


def test_law_16_a_head_that_was_saved_nowhere_is_refused(
    model_folder: Folders, examples_of: Examples, tmp_path: Path
) -> None:
    """Law 16: peft leaves a new pooler frozen at random and does not save it (law 15); such an adapter is lost, and
    what would be merged is not what was trained."""
    config = LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["query"])
    folder = save_adapter(
        model_folder("bert"), tmp_path / "adapter", config, AutoModelForSequenceClassification, num_labels=3
    )
    with pytest.raises(ModelError, match=r"bert.pooler.dense.bias is neither in .* nor in .*2 such tensors"):
        merged(folder, examples_of([9, 5], classify=True), tmp_path / "merged")


# --- law 17


def test_law_17_merging_is_in_fp32_and_casts_once(model_folder: Folders, examples_of: Examples, tmp_path: Path) -> None:
    """Law 17: what is stored in bf16 is the fp32 sum rounded once, bit for bit, not the sum of rounded weights; what
    the rounding changes is reported, and it is what shows when the file is used."""
    examples, base = examples_of([9, 5, 12]), model_folder("llama")
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=["q_proj"])
    folder = save_adapter(base, tmp_path / "adapter", config)
    report = merged(folder, examples, tmp_path / "merged", stored="bf16")
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    factors = load_file(folder / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a, b = (factors[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    weight, update = before[f"{name}.weight"], 2.0 * b @ a
    assert torch.equal(after[f"{name}.weight"], (weight + update).bfloat16())
    assert not torch.equal(after[f"{name}.weight"], weight.bfloat16() + update.bfloat16())
    adapted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder), examples)
    again = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32), examples)
    _, in_fp32, read_back = report.forms
    real = make_batch(examples, range(3), padding=0).attention_mask_BT.bool()
    assert in_fp32.max_logit_difference < 1e-5
    assert read_back.max_logit_difference == pytest.approx(float((again - adapted)[real].abs().max()), rel=1e-3)
    assert read_back.max_logit_difference > 1e-4
    assert read_back.nll != in_fp32.nll


# --- law 18


@BITSANDBYTES
@pytest.mark.parametrize("rounding", ["nf4", "nf4-double"])
def test_law_18_an_adapter_of_a_quantised_base_is_merged_onto_a_stated_one(rounding: Rounding, tmp_path: Path) -> None:
    """Law 18: onto the rounded weights it was trained on, the merged loss is the adapter's; onto the whole weights it
    is another one, and both are printed."""
    from transformers import BitsAndBytesConfig

    rounded = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=rounding == "nf4-double",
        bnb_4bit_compute_dtype=torch.float32,
    )
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    stories = Path(__file__).parents[3] / "shared" / "data" / "weights" / "stories260k"
    if not stories.is_dir():
        pytest.skip("stories260k lies beside the repository, and is not there")
    folder = save_adapter(stories, tmp_path / "adapter", config, quantization_config=rounded)
    adapter = AdapterFolder.open(folder, None)
    rows = rows_of(adapter, None)
    ids_1T = torch.tensor([rows.examples[0].input_ids])
    base = AutoModelForCausalLM.from_pretrained(stories, quantization_config=rounded)
    in_training = PeftModel.from_pretrained(base, folder).train()(input_ids=ids_1T).logits.detach()
    found = {}
    for onto in (rounding, "whole"):
        report = merge(MergePlan(adapter, rounding, onto, "fp32", tmp_path / onto), rows)
        assert (report.trained_on, report.onto) == (rounding, onto)
        assert all(form.nll is not None for form in report.forms), "the merged loss is printed beside the adapter's"
        assert "quantization_config" not in json.loads((tmp_path / onto / "config.json").read_text())
        again = AutoModelForCausalLM.from_pretrained(tmp_path / onto)
        with torch.no_grad():
            found[onto] = float((again(input_ids=ids_1T).logits - in_training).abs().max())
        difference = report.forms[-1].nll - report.forms[0].nll
        assert (abs(difference) < 1e-5) == (onto == rounding)
    assert found[rounding] < 1e-3 < 0.01 < found["whole"]


def test_law_18_a_loss_is_there_without_any_data(model_folder: Folders, tmp_path: Path) -> None:
    """Law 18: where no data is given, the loss is that on topics of Python's documentation, and the report says so."""
    base = BUNDLED["tiny"]
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=["c_attn"])
    adapter = AdapterFolder.open(save_adapter(base, tmp_path / "adapter", config), None)
    rows = rows_of(adapter, None)
    report = merge(MergePlan(adapter, "whole", "whole", "bf16", tmp_path / "merged"), rows)
    assert report.scored_on == "topics of Python's documentation"
    assert report.forms[0].nll == pytest.approx(report.forms[1].nll, rel=1e-5)
    labelled = tmp_path / "rows.jsonl"
    labelled.write_text('{"text": "a text", "label": "yes"}\n{"text": "another", "label": "no"}\n')
    with pytest.raises(DataError, match="the rows are for the task classify"):
        rows_of(adapter, DataSpec(train=str(labelled)))
