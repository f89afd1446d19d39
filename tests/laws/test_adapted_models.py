"""Laws 4, 13, 15 and 28: what an adapter leaves alone, what it reaches, what survives the disk, and padding."""

import json
import math
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from small_models import (
    DECODERS,
    FAMILIES,
    LABELS,
    PADDING,
    STORIES,
    classifier,
    labelled_examples,
    language_model,
    save_small_model,
    text_windows,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunewise.desk.protocol.resolve import resolve
from tunewise.desk.protocol.schedule import next_runs
from tunewise.errors import SpecError
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching, Example, make_batch
from tunewise.lab.evaluate.score import score
from tunewise.lab.methods import Method, build_method, describe
from tunewise.lab.models.load import BUNDLED, Base, load_tuned
from tunewise.lab.prepare import prepare
from tunewise.lab.run.story import Run
from tunewise.lab.train.loop import Loop, train
from tunewise.lab.train.optim import LearningRates, make_optimizer, parameter_groups
from tunewise.lab.weights.precision import store_frozen_weights
from tunewise.spec import FullMethod, HeadMethod, LoraMethod, PeftMethod, Precision, StudySpec, TrainSpec
from tunewise.storage.ledger import Ledger

Rows = list[dict[str, Any]]
REAL_MODELS = [
    pytest.param(BUNDLED["tiny"], id="tiny"),
    pytest.param(
        STORIES, id="stories260k", marks=pytest.mark.skipif(not STORIES.is_dir(), reason="../shared is not here")
    ),
]
SEVEN = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert", "gpt2", "llama")
ARMS = {"full": FullMethod(), "lora": LoraMethod(rank=4), "head": HeadMethod()}


def scores(model: torch.nn.Module, examples: list[Example], max_tokens: int = 2048) -> Rows:
    return score(model, examples, Batching(max_tokens, PADDING), Compute("cpu", "fp32"))


# --- law 4

B_BEGINS_AS_ZERO = (LoraMethod(rank=4), LoraMethod(rank=4, variant="rslora", targets="qkv"))
SPLITS_THE_WEIGHT = PeftMethod(type="LORA", options={"r": 4, "lora_alpha": 4, "init_lora_weights": "pissa"})


@pytest.mark.parametrize("folder", REAL_MODELS)
def test_law_04_an_untrained_adapter_forgets_nothing(folder: Path) -> None:
    """Law 4: forgetting of an untrained adapter is exactly 0 where B begins as 0, and below 1e-5 nats a token where
    the adapter takes over a part of the weight."""
    ids = AutoTokenizer.from_pretrained(folder)(topics["assert"] + topics["while"]).input_ids
    windows = text_windows(ids, length=60)
    base = scores(language_model(str(folder)).model, windows)

    def forgetting(method: Any) -> float:
        adapted = scores(build_method(method, "lm", 1).prepare(language_model(str(folder))), windows)
        added = math.fsum(row["nll"] for row in adapted) - math.fsum(row["nll"] for row in base)
        return added / sum(row["num_tokens"] for row in base)

    for method in B_BEGINS_AS_ZERO:
        assert forgetting(method) == 0.0
    assert abs(forgetting(SPLITS_THE_WEIGHT)) < 1e-5


@pytest.mark.parametrize("folder", REAL_MODELS)
def test_law_04_the_bases_loss_is_the_references_with_padding_left_or_right(folder: Path) -> None:
    """Law 4: the loss that forgetting is measured from is that of plain transformers in float64, which pads left."""
    ids = AutoTokenizer.from_pretrained(folder)(topics["assert"]).input_ids
    windows = text_windows(ids[:40], 40) + text_windows(ids[40:65], 25) + text_windows(ids[65:72], 7)
    width = 40
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    ids_BT = torch.tensor([[PADDING] * (width - len(w.input_ids)) + w.input_ids for w in windows])
    mask_BT = torch.tensor([[0] * (width - len(w.input_ids)) + [1] * len(w.input_ids) for w in windows])
    with torch.no_grad():
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        logits_BTV = reference(ids_BT, attention_mask=mask_BT, position_ids=positions_BT).logits
    rows = scores(language_model(str(folder)).model, windows)
    for row, window, log_probabilities_TV in zip(rows, windows, logits_BTV.log_softmax(-1), strict=True):
        own_TV = log_probabilities_TV[width - len(window.input_ids) :]
        nll = -sum(float(own_TV[t - 1, token]) for t, token in enumerate(window.input_ids) if t > 0)
        assert row["nll"] == pytest.approx(nll, rel=1e-6)


# --- law 13


@pytest.mark.parametrize("target", ["q_porj", ("attention", "q_porj"), "h\\.9\\..*"])
def test_law_13_a_target_that_matches_nothing_is_an_error_with_candidates(target: Any) -> None:
    """Law 13: a target name that matches no module, even one among others that do, is an error that lists the modules
    there are."""
    wrong = target if isinstance(target, str) else target[-1]
    with pytest.raises(SpecError) as caught:
        build_method(LoraMethod(targets=target), "lm", 1).prepare(language_model("tiny"))
    message = str(caught.value)
    assert f"targets '{wrong}' matches no linear module" in message
    for candidate in ("all-linear", "c_attn", "c_fc", "c_proj", "transformer.h.0.attn.c_attn"):
        assert candidate in message


def test_law_13_the_share_of_linear_parameters_that_are_covered_is_reported() -> None:
    """Law 13: what the targets cover of the base's linear parameters is reported, so that 'attention only' shows."""
    d = 256  # the bundled GPT-2: four layers, each with these weights and biases
    qkv, attention_output = d * 3 * d + 3 * d, d * d + d
    mlp = (d * 4 * d + 4 * d) + (4 * d * d + d)
    whole = qkv + attention_output + mlp
    for targets, covered in {"qkv": qkv, "attention": qkv + attention_output, "mlp": mlp, "all-linear": whole}.items():
        method = build_method(LoraMethod(targets=targets), "lm", 1)
        tuned = describe(method.prepare(language_model("tiny")), method)
        assert tuned.linear_share == pytest.approx(covered / whole)


# --- law 15


def trained(method: Method, base: Base, precision: Precision) -> torch.nn.Module:
    """The model after 30 steps on 24 examples."""
    examples = labelled_examples([5 + row % 7 for row in range(24)])
    model = method.prepare(base)
    store_frozen_weights(model, precision)
    settings = TrainSpec()
    groups = parameter_groups(model, base.head_modules, settings, LearningRates(0.01, 0.05))
    loop = Loop(make_optimizer(groups, settings, "cpu"), [1.0] * 30, 1.0, Compute("cpu", precision), method.after_step)
    list(train(model, [[make_batch(examples, range(24), PADDING)]] * 30, loop))
    return model


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("family", SEVEN)
def test_law_15_accuracy_after_save_and_reload_is_the_accuracy_in_memory(family: str, arm: str, tmp_path: Path) -> None:
    """Law 15: a tuned classifier gives the same accuracy, and the same probabilities, after it was saved and loaded
    onto a fresh base whose head was drawn from another seed."""
    folder = save_small_model(family, tmp_path / "base")
    method = build_method(ARMS[arm], "classify", 30)
    test = labelled_examples([4 + row % 9 for row in range(30)], seed=1)
    model = trained(method, classifier(folder, seed=1), "fp32")
    in_memory = scores(model, test)
    method.save(model, tmp_path / "saved")
    fresh = classifier(folder, seed=2)
    untrained = scores(fresh.model, test)
    reloaded = scores(load_tuned(fresh, tmp_path / "saved"), test)

    def accuracy(rows: Rows) -> float:
        return sum(row["prediction"] == row["label"] for row in rows) / len(rows)

    assert accuracy(reloaded) == accuracy(in_memory)
    assert accuracy(untrained) != accuracy(in_memory), "or a lost head would not show"
    assert reloaded == in_memory


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("family", SEVEN)
def test_law_15_every_weight_that_the_checkpoint_lacks_learns_in_fp32_and_is_saved(
    family: str, arm: str, tmp_path: Path
) -> None:
    """Law 15: a weight that the checkpoint did not provide learns in fp32 in every arm, also where frozen weights are
    stored in bf16, and is in the saved file; the adapter's targets are full names outside of the heads."""
    base = classifier(save_small_model(family, tmp_path / "base"), seed=1)
    drawn = {name: base.model.get_parameter(name).detach().clone() for name in base.new_parameters}
    assert drawn, "the checkpoint has no label head"
    heads = tuple(f"{head}." for head in base.head_modules)
    assert all(name.startswith(heads) for name in drawn)
    method = build_method(ARMS[arm], "classify", 30)
    model = trained(method, base, "bf16")
    # peft puts a head that it trains beside the original one
    learned = {
        name.removeprefix("base_model.model.").replace(".modules_to_save.default", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    method.save(model, tmp_path / "saved")
    name_of_file = "adapter_model.safetensors" if arm == "lora" else "model.safetensors"
    saved = {
        name.removeprefix("base_model.model."): tensor
        for name, tensor in load_file(tmp_path / "saved" / name_of_file).items()
    }
    for name, before in drawn.items():
        assert learned[name].dtype == saved[name].dtype == torch.float32
        assert not torch.equal(saved[name], before), f"{name} did not learn"
        assert torch.equal(saved[name], learned[name])
    if arm == "lora":
        targets = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())["target_modules"]
        modules = {name for name, _ in classifier(tmp_path / "base", seed=1).model.named_modules()}
        assert targets
        assert set(targets) <= modules, "full names, which no other module can match"
        assert not any(f"{target}.".startswith(heads) for target in targets)


# --- law 28


@pytest.mark.parametrize("family", FAMILIES)
def test_law_28_class_probabilities_do_not_change_with_padding(family: str, tmp_path: Path) -> None:
    """Law 28: the logits of a text are the same alone and beside a longer one, for encoders and decoders; a decoder's
    are also the same where the padding is put on the left."""
    base = classifier(save_small_model(family, tmp_path), seed=1)
    (text,) = labelled_examples([9])
    alone = scores(base.model, [text])[0]["class_log_probabilities"]
    for num_padding in (1, 7, 40):
        (longer,) = labelled_examples([9 + num_padding], seed=1)
        beside = scores(base.model, [text, longer])[0]["class_log_probabilities"]
        assert beside == pytest.approx(alone, abs=1e-6)
        if family in DECODERS:
            padded = padded_left(base.model, text.input_ids, num_padding)
            assert padded == pytest.approx(alone, abs=1e-6)


@torch.no_grad()
def padded_left(model: torch.nn.Module, ids: list[int], num_padding: int) -> list[float]:
    mask = torch.tensor([[0] * num_padding + [1] * len(ids)])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(torch.tensor([[PADDING] * num_padding + ids]), attention_mask=mask, position_ids=positions).logits
    found: list[float] = logits[0].log_softmax(-1).tolist()
    return found


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_law_28_the_side_on_which_a_tokenizer_pads_changes_no_score(family: str, tmp_path: Path) -> None:
    """Law 28: a base whose tokenizer says 'left' is scored as one whose tokenizer says 'right', from data to record."""
    draw = labelled_examples([3 + row % 20 for row in range(40)])
    for split, rows in {"train": draw[:12], "valid": draw[12:24], "test": draw[24:]}.items():
        lines = [{"text": " ".join(f"w{i}" for i in e.input_ids), "label": LABELS[e.label]} for e in rows]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = {
        side: base_scores(save_small_model(family, tmp_path / side, padding_side=side), tmp_path)
        for side in ("left", "right")
    }
    assert len(found["left"]) == 28
    assert found["left"] == found["right"]


def base_scores(model: Path, data: Path) -> Rows:
    """What the base's run writes down, of valid and test."""
    splits = {split: str(data / f"{split}.jsonl") for split in ("train", "valid", "test")}
    content = {"name": "padding", "model": str(model), "data": splits, "arms": {"full": {"method": "full"}}}
    ledger = Ledger(data / f"study-{model.name}")
    ledger.create()
    asked = StudySpec.model_validate({**content, "samples": {"count": 0}})
    folder = ledger.data_folder(prepare(asked, ledger.folder / "data"))
    study = resolve(asked, summary := ledger.data_summary())
    spec = next_runs(study, summary, [], ())[0]
    assert spec.role == "base"
    Run(spec, ledger.begin(spec), folder, lambda event: None).execute()
    return pq.read_table(ledger.scores_path(spec.run_id)).to_pylist()
