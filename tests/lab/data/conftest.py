"""Tokenizers for the tests of the data side, and the way through it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from data_helpers import Prepared, shared
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import tunewise.lab.data
from tunewise.lab.data.prepare import prepare_examples
from tunewise.spec import StudySpec

ASSETS = Path(tunewise.lab.data.__file__).parents[2] / "assets"


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The bundled base's tokenizer: byte-level BPE, no BOS, with a chat template."""
    return AutoTokenizer.from_pretrained(ASSETS / "tiny")


@pytest.fixture(scope="session")
def gpt2() -> Any:
    """GPT-2's tokenizer."""
    path = shared("data/tokenizer/gpt2/tokenizer.json")
    return PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def stories() -> Any:
    """A Llama tokenizer: adds BOS, puts a space before every text."""
    path = shared("data/weights/stories260k/tokenizer.json")
    return PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def encoder() -> Any:
    """A tokenizer of the BERT kind: whole words in [CLS] ... [SEP]."""
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "a", "good", "bad", "film"]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )


@pytest.fixture
def prepare(tmp_path: Path, tiny: Any) -> Callable[..., Prepared]:
    """prepare(study, tokenizer=tiny, context=512): the data prepared into a folder of its own, and read again."""
    runs = iter(range(1000))

    def prepared(study: StudySpec, tokenizer: Any = tiny, context: int = 512) -> Prepared:
        folder = tmp_path / f"prepared{next(runs)}"
        summary = prepare_examples(study, tokenizer, context, folder, (tokenizer.eos_token_id,))
        return Prepared(summary, {path.stem: pq.read_table(path).to_pylist() for path in folder.glob("*.parquet")})

    return prepared


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets are kept in the test's own folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
