"""Small random models of every family that people classify with, and texts whose label is easy to learn."""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

from lab_fixtures import ENCODERS, VOCABULARY, small_config
from tunewise.lab.data.batching import Example
from tunewise.lab.models.load import Base, load_base, load_config, load_tokenizer

PADDING, EOS = 0, 2
LABELS = ("animal", "city", "plant")
DECODERS = ("gpt2", "llama", "qwen2", "opt", "gpt-neox")
FAMILIES = (*ENCODERS, *DECODERS)
STORIES = Path(__file__).parents[3] / "shared" / "data" / "weights" / "stories260k"


def small_tokenizer(padding_side: str = "right") -> PreTrainedTokenizerFast:
    """'w7' is piece 7; <pad>, <bos>, <eos>, <unk> are 0 to 3."""
    pieces = {"<pad>": PADDING, "<bos>": 1, "<eos>": EOS, "<unk>": 3}
    words = Tokenizer(WordLevel({**pieces, **{f"w{i}": i for i in range(4, VOCABULARY)}}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side=padding_side,
    )


def save_small_model(family: str, folder: Path, padding_side: str = "right") -> Path:
    """The folder of a pretrained language model (masked for encoders) with random weights: it has no label head."""
    torch.manual_seed(0)
    auto = AutoModelForMaskedLM if family in ENCODERS else AutoModelForCausalLM
    auto.from_config(small_config(family)).save_pretrained(folder)
    small_tokenizer(padding_side).save_pretrained(folder)
    return folder


def classifier(folder: Path, seed: int) -> Base:
    """The model in `folder` with a label head drawn from `seed`."""
    torch.manual_seed(seed)
    return load_base(str(folder), "classify", LABELS, small_tokenizer(), False)


def language_model(name: str) -> Base:
    """A real language model: 'tiny', or the path of a folder."""
    return load_base(name, "lm", (), load_tokenizer(name, load_config(name, "lm", False), False), False)


def labelled_examples(lengths: list[int], seed: int = 0) -> list[Example]:
    """Texts whose words come from the third of the vocabulary that belongs to their label."""
    draw = random.Random(seed)
    share = (VOCABULARY - 4) // len(LABELS)
    made = []
    for row, length in enumerate(lengths):
        label = row % len(LABELS)
        ids = [4 + share * label + draw.randrange(share) for _ in range(length)]
        made.append(Example(f"test:{row + 1}", f"unit {row}", ids, [False] * length, 0, label, "", LABELS[label]))
    return made


def text_windows(ids: list[int], length: int) -> list[Example]:
    """A text cut into windows of at most `length` tokens, of which all but the first are predicted."""
    cuts = [ids[start : start + length] for start in range(0, len(ids) - 1, length)]
    return [
        Example(f"text:{i + 1}", f"unit {i}", cut, [False] + [True] * (len(cut) - 1), len(cut), -1, "", "")
        for i, cut in enumerate(cuts)
        if len(cut) > 1
    ]
