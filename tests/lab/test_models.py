"""Laws of loading: what can be tuned is loaded in fp32, what cannot is refused by name with the way out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from tunewise.errors import ModelError
from tunewise.lab.evaluate.generate import generate
from tunewise.lab.models.context import context_length
from tunewise.lab.models.fingerprints import FileHashes, tokenizer_fingerprint
from tunewise.lab.models.load import BUNDLED, Base, load_base, load_config, load_tokenizer, load_tuned, padding_id

STORIES = Path(__file__).parents[3] / "shared" / "data" / "weights" / "stories260k"
ENCODERS = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert")
DECODERS = ("gpt2", "llama", "qwen2", "mistral", "gemma", "phi3", "gpt-neox", "opt")
LABELS = ("negative", "neutral", "positive")
Load = Callable[..., Base]
Folder = Callable[[str], Path]


# --- what can be tuned


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_can_do_every_task(name: str, model_folder: Folder) -> None:
    for task in ("sft", "lm", "classify", None):
        assert load_config(str(model_folder(name)), task, False)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_can_classify_and_is_refused_by_name_for_text(name: str, model_folder: Folder) -> None:
    folder = model_folder(name)
    assert load_config(str(folder), "classify", False)
    assert load_config(str(folder), None, False)
    for task in ("sft", "lm"):
        with pytest.raises(ModelError, match=f"does not generate text, so it cannot do task '{task}'") as caught:
            load_config(str(folder), task, False)  # type: ignore[arg-type]
        assert str(folder) in str(caught.value)


def test_an_encoder_decoder_is_refused_by_name(tmp_path: Path) -> None:
    T5Config(vocab_size=64, d_model=16).save_pretrained(tmp_path)
    for task in ("sft", "lm", "classify", None):
        with pytest.raises(
            ModelError, match=r"\(t5\) is an encoder-decoder, which is not supported. Supported are decoders"
        ):
            load_config(str(tmp_path), task, False)  # type: ignore[arg-type]


def test_whatever_dtype_the_checkpoint_has_the_base_is_fp32(
    config_of: Callable[[str], PreTrainedConfig], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_config(config_of("llama")).to(torch.bfloat16).save_pretrained(tmp_path)
    model = load_base(str(tmp_path), "sft", (), tokenizer, False).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training


def test_the_bundled_base_is_complete_and_writes_words() -> None:
    config = load_config("tiny", "sft", False)
    tokenizer = load_tokenizer("tiny", config, False)
    base = load_base("tiny", "sft", (), tokenizer, False)
    assert base.new_parameters == base.head_modules == ()
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}
    assert context_length(config) == 512
    assert tokenizer.eos_token_id == config.eos_token_id
    text = generate(base.model, tokenizer, [tokenizer("It was the best of")["input_ids"]], 8, 1)[0].text
    assert text.strip().isascii()
    assert len(text) > 8


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("gpt2", {"score"}),
        ("llama", {"score"}),
        ("bert", {"bert.pooler.dense", "classifier"}),
        ("roberta", {"classifier"}),
        ("distilbert", {"pre_classifier", "classifier"}),
        ("deberta-v2", {"pooler", "classifier"}),
        ("modernbert", {"classifier"}),
    ],
)
def test_the_head_is_all_that_the_checkpoint_does_not_have(name: str, heads: set[str], classifier: Load) -> None:
    base = classifier(name)
    assert set(base.head_modules) == heads
    assert base.new_parameters
    inside = {f"{head}.{n}" for head in heads for n, _ in base.model.get_submodule(head).named_parameters()}
    assert set(base.new_parameters) == inside
    assert base.model.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2"])
def test_a_trained_head_for_the_same_labels_is_kept_and_still_learns_for_others_it_is_new(
    name: str, classifier: Load, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    first = classifier(name)
    first.model.save_pretrained(tmp_path)
    same = load_base(str(tmp_path), "classify", LABELS, tokenizer, False)
    assert same.new_parameters == ()
    assert same.head_modules
    assert set(same.head_modules) <= set(first.head_modules)
    for n, p in first.model.named_parameters():
        assert torch.equal(same.model.get_parameter(n), p)
    other = load_base(str(tmp_path), "classify", ("a", "b"), tokenizer, False)
    assert other.new_parameters
    assert all(2 in other.model.get_parameter(n).shape for n in other.new_parameters)
    assert set(other.head_modules) == set(same.head_modules)


# --- what is refused


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "no/such/folder/at-all"])
def test_a_missing_folder_is_refused_by_name(name: str) -> None:
    with pytest.raises(ModelError, match=name) as caught:
        load_config(name, "sft", False)
    assert "Allowed: tiny, a folder" in str(caught.value)


@pytest.mark.parametrize("content", [None, "{broken", "{}", '{"model_type": "nonsense"}'])
def test_a_folder_that_holds_no_model_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=f"cannot load the configuration of model '{tmp_path}'"):
        load_config(str(tmp_path), "sft", False)


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_a_folder_without_a_tokenizer_is_refused_by_name(
    name: str, config_of: Callable[[str], PreTrainedConfig], tmp_path: Path
) -> None:
    config_of(name).save_pretrained(tmp_path)
    config = load_config(str(tmp_path), None, False)
    with pytest.raises(ModelError, match="tokenizer") as caught:
        load_tokenizer(str(tmp_path), config, False)
    assert str(tmp_path) in str(caught.value)


def pickled(folder: Path, config: PreTrainedConfig) -> Path:
    config.save_pretrained(folder)
    torch.save(AutoModelForCausalLM.from_config(config).state_dict(), folder / "pytorch_model.bin")
    return folder


def test_pickled_weights_are_refused_with_the_way_to_convert_them(
    config_of: Callable[[str], PreTrainedConfig], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = pickled(tmp_path / "model", config_of("gpt2"))
    with pytest.raises(ModelError, match=r"contains no safetensors.*can run code.*save_pretrained\(folder\)"):
        FileHashes(tmp_path / "hashes.json").of_model(str(folder), config_of("gpt2"))
    with pytest.raises(ModelError, match=r"cannot load the weights.*save_pretrained\(folder\)"):
        load_base(str(folder), "sft", (), tokenizer, False)


def test_a_folder_without_weights_is_refused(
    config_of: Callable[[str], PreTrainedConfig], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config_of("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot load the weights"):
        load_base(str(tmp_path), "sft", (), tokenizer, False)


def test_broken_weights_are_refused_by_name(
    config_of: Callable[[str], PreTrainedConfig], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config_of("gpt2").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(ModelError, match=f"cannot load the weights of model '{tmp_path}'"):
        load_base(str(tmp_path), "sft", (), tokenizer, False)


def test_a_language_model_that_lacks_weights_is_refused(
    classifier: Load, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    # an untied output embedding is not among the weights of a classifier
    classifier("llama").model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lack 1 tensors, such as lm_head\.weight"):
        load_base(str(tmp_path), "sft", (), tokenizer, False)


def test_the_folder_of_an_existing_arm_must_be_there_and_hold_safetensors(tmp_path: Path) -> None:
    hashes = FileHashes(tmp_path / "hashes.json")
    with pytest.raises(ModelError, match=r"no such folder: .*absent"):
        hashes.of_weights(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="contains no safetensors"):
        hashes.of_weights(tmp_path / "empty")


def test_an_adapter_of_another_model_is_refused_by_name(language_model: Load, classifier: Load, tmp_path: Path) -> None:
    from tunewise.lab.methods import build_method
    from tunewise.spec import LoraMethod

    method = build_method(LoraMethod(), "sft", 1)
    method.save(method.prepare(language_model("llama")), tmp_path)
    with pytest.raises(ModelError, match=f"{tmp_path} does not fit '"):
        load_tuned(language_model("gpt2"), tmp_path)


# --- fingerprints


def test_a_hash_follows_the_contents_and_not_the_place(model_folder: Folder, tmp_path: Path) -> None:
    config = load_config(str(model_folder("gpt2")), "sft", False)
    hashes = FileHashes(tmp_path / "hashes.json")
    before = hashes.of_model(str(model_folder("gpt2")), config)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in model_folder("gpt2").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert hashes.of_model(str(copy), config) == before
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert hashes.of_model(str(copy), config) != before
    assert FileHashes(tmp_path / "hashes.json").of_model(str(model_folder("gpt2")), config) == before


def test_a_changed_configuration_is_another_model(model_folder: Folder, tmp_path: Path) -> None:
    config = load_config(str(model_folder("gpt2")), "sft", False)
    hashes = FileHashes(tmp_path / "hashes.json")
    for path in model_folder("gpt2").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(text.replace('"n_head": 4', '"n_head": 2'), encoding="utf-8")
    assert hashes.of_model(str(tmp_path), config) != hashes.of_model(str(model_folder("gpt2")), config)


def test_the_fingerprint_of_a_tokenizer_follows_its_special_tokens_and_template(
    model_folder: Folder,
) -> None:
    config = load_config(str(model_folder("gpt2")), "sft", False)

    def load() -> Any:
        return load_tokenizer(str(model_folder("gpt2")), config, False)

    plain = tokenizer_fingerprint(load())
    assert tokenizer_fingerprint(load()) == plain
    with_template, with_eos = load(), load()
    with_template.chat_template = "{{ messages }}"
    with_eos.eos_token = "w9"
    assert len({plain, tokenizer_fingerprint(with_template), tokenizer_fingerprint(with_eos)}) == 3


# --- tokenizers and contexts


def test_padding_is_the_pad_token_else_the_end_of_text_else_anything(model_folder: Folder) -> None:
    config = load_config(str(model_folder("gpt2")), "sft", False)
    tokenizer = load_tokenizer(str(model_folder("gpt2")), config, False)
    assert padding_id(tokenizer) == 0
    tokenizer.pad_token = None
    assert padding_id(tokenizer) == 2
    tokenizer.eos_token = None
    assert padding_id(tokenizer) == 0


@pytest.mark.parametrize(("name", "length"), [("gpt2", 64), ("llama", 64), ("bert", 64), ("opt", 64), ("roberta", 65)])
def test_a_text_as_long_as_the_context_can_be_read(name: str, length: int, classifier: Load) -> None:
    base = classifier(name)
    assert context_length(base.model.config) == length
    ids = torch.full((1, length), 7)
    with torch.no_grad():
        assert base.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()


@pytest.mark.skipif(
    not STORIES.is_dir(), reason="the real test models lie beside the repository, which they do not here"
)
def test_a_real_llama_whose_tokenizer_names_no_special_tokens_gets_them_from_its_configuration() -> None:
    config = load_config(str(STORIES), "lm", False)
    tokenizer = load_tokenizer(str(STORIES), config, False)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (config.bos_token_id, config.eos_token_id) == (1, 2)
    base = load_base(str(STORIES), "lm", (), tokenizer, False)
    assert base.new_parameters == ()
    expected = (STORIES / "expected_greedy.txt").read_text(encoding="utf-8").strip()
    text = generate(base.model, tokenizer, [[1]], 40, 1)[0].text.strip()
    assert len(text) > 40
    assert expected.startswith(text)


def test_bundled_names_are_folders_of_the_package() -> None:
    assert all((folder / "config.json").is_file() for folder in BUNDLED.values())


def test_classification_heads_load_with_plain_transformers(classifier: Load, tmp_path: Path) -> None:
    base = classifier("roberta")
    base.model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.label2id == {label: i for i, label in enumerate(LABELS)}
