"""Law 49: positions, ids and stops are asked of the model and tried, never kept in a list of families."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    CamembertConfig,
    GPT2Config,
    LlamaConfig,
    LongformerConfig,
    MPNetConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from lab_fixtures import make_examples, small_tokenizer
from tunewise.errors import ModelError
from tunewise.lab.data.prepare import write_examples
from tunewise.lab.data.rows import EncodedRow
from tunewise.lab.evaluate.generate import Generated, generate, stop_ids
from tunewise.lab.models.context import context_length
from tunewise.lab.models.load import Base, load_base, padding_id
from tunewise.lab.models.usable import require_usable

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 66,
}
FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "mpnet": lambda: MPNetConfig(**COMMON, pad_token_id=1),
    "longformer": lambda: LongformerConfig(**COMMON, pad_token_id=1, attention_window=[8] * 4),
    "roberta": lambda: RobertaConfig(**COMMON, pad_token_id=1),
    "roberta that pads with 7": lambda: RobertaConfig(**COMMON, pad_token_id=7),
    "roberta, longer than what is tried": lambda: RobertaConfig(
        **{**COMMON, "max_position_embeddings": 1_602}, pad_token_id=1
    ),
    "camembert": lambda: CamembertConfig(**COMMON, pad_token_id=1),
    "bert": lambda: BertConfig(**COMMON),
    "gpt2": lambda: GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=66),
    "opt": lambda: OPTConfig(**{**COMMON, "word_embed_proj_dim": 32, "ffn_dim": 48}, pad_token_id=1),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_law_49_the_longest_text_is_the_longest_that_the_model_itself_reads(family: str) -> None:
    config = FAMILIES[family]()
    length = context_length(config)
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    ids = torch.full((1, length + 1), 9)
    with torch.no_grad():
        model(input_ids=ids[:, :length], attention_mask=torch.ones_like(ids[:, :length]))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_law_49_what_knows_no_places_reads_as_far_as_it_says() -> None:
    assert context_length(LlamaConfig(**{**COMMON, "max_position_embeddings": 131_072})) == 131_072


def test_law_49_a_small_model_that_cannot_be_built_leaves_what_the_configuration_says() -> None:
    config = BertConfig(**{**COMMON, "hidden_act": "no such function"})
    assert context_length(config) == 66


def written(folder: Path, *rows: list[int]) -> Path:
    """Prepared data whose training examples have these ids."""
    one = make_examples([4])[0]
    examples = [
        EncodedRow(
            example=f"train:{place + 1}",
            unit="",
            input_ids=ids,
            supervised=[True] * len(ids),
            num_bytes=0,
            label=-1,
            prompt=one.prompt,
            reference=one.reference,
        )
        for place, ids in enumerate(rows)
    ]
    write_examples(folder, [("train", examples)])
    return folder


def test_law_49_an_id_beyond_the_embeddings_is_refused_by_its_token_before_anything_is_trained(
    language_model: Callable[[str], Base], tmp_path: Path
) -> None:
    tokenizer, base = small_tokenizer(), language_model("llama")
    tokenizer.add_tokens(["<order>"])
    require_usable("m", base.model, written(tmp_path / "good", [4, 63], [5, 6]), tokenizer)
    with pytest.raises(ModelError, match=r"train:2 contains the token '<order>' with the id 64, .* embeddings for 64"):
        require_usable("m", base.model, written(tmp_path / "bad", [4, 5], [6, 64]), tokenizer)
    base.model.resize_token_embeddings(65)
    require_usable("m", base.model, tmp_path / "bad", tokenizer)


def test_law_49_what_fills_batches_is_a_token_that_the_model_knows() -> None:
    tokenizer = small_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert padding_id(tokenizer) == 64
    assert padding_id(tokenizer, 64) == tokenizer.eos_token_id
    assert padding_id(tokenizer, 65) == 64


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight"])
def test_law_49_a_base_without_a_finite_loss_is_refused_before_anything_is_trained(
    value: float, name: str, language_model: Callable[[str], Base], tmp_path: Path
) -> None:
    base = language_model("llama")
    base.model.get_parameter(name).data.view(-1)[-1] = value
    with pytest.raises(ModelError, match=rf"not finite .* in 1 of 21 tensors, such as {name}"):
        require_usable("m", base.model, written(tmp_path, [4, 5]), small_tokenizer())


def test_law_49_finite_weights_with_infinite_logits_are_refused_as_well(
    language_model: Callable[[str], Base], tmp_path: Path
) -> None:
    base = language_model("llama")
    base.model.lm_head.weight.data.fill_(3e38)
    with pytest.raises(ModelError, match=r"computes numbers that are not finite .* for train:1"):
        require_usable("m", base.model, written(tmp_path, [4, 5]), small_tokenizer())


# --- stops


def model_that_stops(folder: Path, to: Path, **named: Any) -> Path:
    """A copy of the model whose generation_config.json names these keys; None: without that file."""
    shutil.copytree(folder, to)
    file = to / "generation_config.json"
    file.unlink(missing_ok=True)
    if named:
        file.write_text(json.dumps(named), encoding="utf-8")
    return to


@torch.no_grad()
def plain(model: Any, ids: list[int], num: int) -> list[int]:
    """What transformers' own generate writes, with what the checkpoint itself says of stops."""
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=num,
        do_sample=False,
    )
    return [int(token) for token in out[0, len(ids) :]]


@pytest.mark.parametrize("as_list", [True, False])
def test_law_49_every_stop_that_the_checkpoint_names_ends_a_text(
    as_list: bool, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    tokenizer = small_tokenizer()
    free = load_base(str(model_folder("llama")), "sft", (), tokenizer, False).model
    free.generation_config.eos_token_id = None
    texts = {prompt: plain(free, [prompt], 8) for prompt in range(4, 64)}
    prompt, written = next((p, ids) for p, ids in texts.items() if 2 not in ids and ids[3] not in ids[:3])
    stop = written[3]
    folder = model_that_stops(model_folder("llama"), tmp_path / "m", eos_token_id=[2, stop] if as_list else stop)
    model = load_base(str(folder), "sft", (), tokenizer, False).model
    assert stop_ids(model, tokenizer) == (2, stop)
    cut = written[:3]
    found = generate(model, tokenizer, [[prompt], [7, 8]], 8, max_tokens=1_000)[0]
    assert found == Generated(tokenizer.decode(cut), len(cut), True)
    assert plain(model, [prompt], 8) == [*cut, stop]


def test_law_49_the_default_of_a_family_is_no_stop_where_it_is_a_word_of_the_tokenizer(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    tokenizer = small_tokenizer()
    folder = model_that_stops(model_folder("llama"), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 9}), encoding="utf-8")
    model = load_base(str(folder), "sft", (), tokenizer, False).model
    assert stop_ids(model, tokenizer) == (2,)
    special = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>", additional_special_tokens=["w9"]
    )
    assert stop_ids(model, special) == (2, 9)
    model.save_pretrained(tmp_path / "tuned")
    again = load_base(str(tmp_path / "tuned"), "sft", (), tokenizer, False).model
    assert stop_ids(again, tokenizer) == (2,), "a tuned model stops where its base does"


def test_law_49_a_tokenizer_without_an_end_stops_where_the_model_says(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    tokenizer = small_tokenizer()
    tokenizer.eos_token = None
    folder = model_that_stops(model_folder("llama"), tmp_path / "m", eos_token_id=[2])
    model = load_base(str(folder), "sft", (), tokenizer, False).model
    assert stop_ids(model, tokenizer) == (2,)
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    found = generate(model, tokenizer, [[4]], 4, max_tokens=100)[0]
    assert replace(found, text="") == Generated("", 4, False)
