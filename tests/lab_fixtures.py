"""Small models and examples for the tests of the lab and for the laws; everything is drawn from seeds, nothing is
downloaded."""

import math
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported: a test that asks the hub is broken

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    RobertaConfig,
)

from tunewise.lab.data.batching import Example
from tunewise.lab.models.load import Base, load_base

VOCABULARY = 64
LABELS = ("negative", "neutral", "positive")
LENGTHS = (9, 4, 16, 5, 23, 12, 7, 3)  # unequal on purpose: a mean of means would show
CUTS = {  # ways to cut these eight into micro-batches
    "8 at once": [range(8)],
    "2 times 4": [range(4), range(4, 8)],
    "8 times 1": [[row] for row in range(8)],
    "uneven": [range(3), range(3, 6), range(6, 8)],
    "any order": [[7], [3, 0], [5, 1, 6, 2], [4]],
}
Gradients = dict[str, torch.Tensor]  # by the name of the parameter
ENCODERS = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert")


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # sums in one order, and no fight for the cores over matrices this small


def small_config(name: str) -> PreTrainedConfig:
    """Two layers, width 32, 64 pieces; dropout as the family has it."""
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    grouped = {**common, **special, "num_key_value_heads": 2}
    configs: dict[str, Callable[[], PreTrainedConfig]] = {
        "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, **special),
        "llama": lambda: LlamaConfig(**grouped),
        "qwen2": lambda: Qwen2Config(**grouped),
        "mistral": lambda: MistralConfig(**grouped),
        "gemma": lambda: GemmaConfig(**grouped, head_dim=8),
        "phi3": lambda: Phi3Config(**grouped),
        "gpt-neox": lambda: GPTNeoXConfig(**common, bos_token_id=1, eos_token_id=2),
        "opt": lambda: OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            **special,
        ),
        "bert": lambda: BertConfig(**common),
        "roberta": lambda: RobertaConfig(**{**common, "max_position_embeddings": 66}, **special),
        "distilbert": lambda: DistilBertConfig(
            vocab_size=VOCABULARY, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=64
        ),
        "deberta-v2": lambda: DebertaV2Config(
            **common,
            relative_attention=True,
            position_buckets=8,
            pos_att_type=["p2c", "c2p"],
            share_att_key=True,
            pooler_hidden_size=32,
        ),
        "modernbert": lambda: ModernBertConfig(**common, **special, cls_token_id=1, sep_token_id=2),
    }
    return configs[name]()


def small_tokenizer() -> PreTrainedTokenizerFast:
    """'w7' is piece 7; <pad>, <bos>, <eos>, <unk> are 0 to 3."""
    pieces = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3, **{f"w{i}": i for i in range(4, VOCABULARY)}}
    words = Tokenizer(WordLevel(pieces, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def small_model(name: str, folder: Path) -> None:
    """Writes a small pretrained model with random weights: a language model, or a masked one for encoders."""
    auto = AutoModelForMaskedLM if name in ENCODERS else AutoModelForCausalLM
    with torch.random.fork_rng():  # the first caller's random state is as that of later ones
        torch.manual_seed(0)
        auto.from_config(small_config(name)).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Of the small models."""
    return small_tokenizer()


@pytest.fixture(scope="session")
def config_of() -> Callable[[str], PreTrainedConfig]:
    """The small configuration of an architecture, by name."""
    return small_config


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small pretrained model, written by `small_model`."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            small_model(name, root / name)
        return root / name

    return folder


@pytest.fixture(scope="session")
def language_model(model_folder: Callable[[str], Path], tokenizer: PreTrainedTokenizerFast) -> Callable[[str], Base]:
    """A fresh base for sft or lm."""

    def load(name: str) -> Base:
        return load_base(str(model_folder(name)), "sft", (), tokenizer, False)

    return load


@pytest.fixture(scope="session")
def classifier(model_folder: Callable[[str], Path], tokenizer: PreTrainedTokenizerFast) -> Callable[..., Base]:
    """A fresh base for a classification in three classes, its head drawn from `seed`."""

    def load(name: str, seed: int = 0) -> Base:
        folder = model_folder(name)
        torch.manual_seed(seed)
        return load_base(str(folder), "classify", LABELS, tokenizer, False)

    return load


def make_examples(lengths: Sequence[int], seed: int = 0, classify: bool = False, **changes: Any) -> list[Example]:
    """Random examples of these lengths; the second half of the tokens is supervised, or there is a label."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for row, length in enumerate(lengths):
        ids = torch.randint(4, VOCABULARY, (length,), generator=generator).tolist()
        content = {
            "example": f"test:{row + 1}",
            "unit": f"unit {row // 2}",
            "input_ids": ids,
            "supervised": [not classify and position >= (length + 1) // 2 for position in range(length)],
            "num_bytes": 0 if classify else 3 * (length // 2),
            "label": row % len(LABELS) if classify else -1,
            "prompt": "a prompt",
            "reference": LABELS[row % len(LABELS)] if classify else "an answer",
        }
        made.append(Example(**{**content, **changes}))
    return made


@pytest.fixture(scope="session")
def examples_of() -> Callable[..., list[Example]]:
    """Random examples of given lengths: `examples_of(lengths, seed=0, classify=False)`."""
    return make_examples


def without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    """The model, which drops nothing from now on."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def relative_difference(one: Gradients, other: Gradients) -> float:
    """|one - other| / |other|, over all parameters together."""
    assert one.keys() == other.keys()
    assert other
    apart = sum(float((one[name] - other[name]).double().square().sum()) for name in one)
    return math.sqrt(apart / sum(float(gradient.double().square().sum()) for gradient in other.values()))
