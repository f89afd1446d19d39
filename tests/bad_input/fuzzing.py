"""What must hold for any bytes at all: a reader gives rows or a message, a study file a study or a message.

Used by the tests for a moment, and by scripts/fuzz_readers.py for as long as one likes.
"""

import gzip
import io
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from safetensors.numpy import save

from tunewise.adapter.config import CONFIG as ADAPTER_CONFIG
from tunewise.adapter.config import WEIGHTS as ADAPTER_WEIGHTS
from tunewise.adapter.file import read_adapter
from tunewise.errors import DataError, ModelError, SpecError
from tunewise.inputs.data_folder import split_files
from tunewise.lab.data.classify import label_name
from tunewise.lab.data.rows import Cells
from tunewise.lab.data.sources.files import read_file
from tunewise.lab.models.folder import weight_files
from tunewise.lab.models.load import load_config
from tunewise.spec import StudySpec, canonical_json
from tunewise.spec.reading import read_study
from tunewise.text.safe import CONTROLS, printable

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz"))
SEPARATOR = "\n\n\n"
FACTOR_SHAPES = {"A": (2, 3), "B": (4, 2)}
MAX_MESSAGE = 20_000  # characters, of ten mistakes


def check_file(suffix: str, content: bytes) -> None:
    """Rows, each a mapping with a place that rises, or a DataError that names the file."""
    path = FOLDER / f"fuzz{suffix}"
    path.write_bytes(content)
    places, refused = [], None
    try:
        for place, row in read_file(path, SEPARATOR):
            assert isinstance(row, dict)
            places.append(place)
            check_row(row)
    except DataError as error:
        refused = error
    if refused is not None:
        check_message(refused)
        assert str(path) in str(refused), "the file is named"
        return
    assert places, "no rows are an error"
    assert places == sorted(set(places))


def check_row(row: dict[str, Any]) -> None:
    """Each cell is text that can be stored, or a DataError."""
    cells = Cells(row, "fuzz, row 1", {})
    label = Cells({"label": next(iter(row.values()), None)}, "fuzz, row 1", {})
    for make in [*(lambda name=name: cells.text(name, "a test") for name in row), lambda: label_name(label)]:
        try:
            assert make().encode() is not None
        except DataError as error:
            check_message(error)


def check_study(content: bytes) -> None:
    """A study that can be stored and read again, or a SpecError."""
    path = FOLDER / "study.yaml"
    path.write_bytes(content)
    try:
        study = read_study(path)
    except SpecError as error:
        check_message(error)
        return
    plain = study.model_dump(mode="json")
    canonical_json(plain)
    assert StudySpec.model_validate(plain) == study


def check_model(name: str, content: bytes) -> None:
    """A configuration that can be read, and weights that may be, or a ModelError."""
    folder = FOLDER / "model"
    folder.mkdir(exist_ok=True)
    for file, sound in {"config.json": CONFIG, "model.safetensors.index.json": INDEX, "a.safetensors": b""}.items():
        (folder / file).write_bytes(content if file == name else sound)
    try:
        load_config(str(folder), None, False)
        files = weight_files(folder, "fuzz")
    except ModelError as error:
        check_message(error)
        return
    assert all(file.is_file() and file.parent == folder for file in files)
    assert all(file.name.endswith((".safetensors", ".safetensors.index.json")) for file in files)


def check_adapter(name: str, content: bytes) -> None:
    """A LoRA adapter whose update can be computed, or a ModelError."""
    folder = FOLDER / "adapter"
    folder.mkdir(exist_ok=True)
    for file, sound in {ADAPTER_CONFIG: ADAPTER, ADAPTER_WEIGHTS: FACTORS}.items():
        (folder / file).write_bytes(content if file == name else sound)
    try:
        adapter = read_adapter(folder)
    except ModelError as error:
        check_message(error)
        return
    assert adapter.modules, "an adapter of no module is refused"
    for factors in adapter.modules.values():
        assert math.isfinite(factors.scale)
        assert factors.A_RN.shape[0] == factors.B_MR.shape[1] > 0


def check_card(content: bytes) -> None:
    """Files of splits below the folder of the card, or a DataError."""
    folder = FOLDER / "dataset"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name in ("README.md", "train.jsonl", "data/test.jsonl"):
        (folder / name).write_bytes(content if name == "README.md" else JSON_LINES)
    try:
        files = [file for of_split in split_files(folder).files.values() for file in of_split]
    except DataError as error:
        check_message(error)
        return
    assert all(file.resolve().is_relative_to(folder.resolve()) and file.is_file() for file in files)


def check_message(error: Exception) -> None:
    """It can be printed, obeyed by no terminal, and read."""
    text = printable(str(error))
    assert not CONTROLS.search(text)
    assert text.encode()
    assert 0 < len(text) < MAX_MESSAGE, f"{len(text):,} characters"


def parquet_of(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, compression="none")
    return file.getvalue()


ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "caf\xe9 \U0001f600", "completion": '"x",\n{y}'}]
JSON_LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
STUDY = b"""\
name: e2e
model: tiny
data: {train: t.jsonl, limit: {train: 10}, columns: {prompt: q}, max_length: 64, template: "{prompt}"}
arms:
  full: &f {method: full}
  lora: {method: lora, rank: auto, max_rank: 16, targets: [q, k], learning_rate: 1e-4, rates: [1.0e-4]}
  ia3: {method: peft, type: IA3, options: {x: [1, null, true, .5]}}
  old: {method: existing, path: a/b}
train: {epochs: 2, betas: [0.9, 0.99], schedule: cosine, clip_norm: 1.0}
tuning: {rates: 3, cap: 7, search: full-length}
looks: [5, 10]
margin: 5% of gain
metrics: [{name: exact_match, extract: "(a|b)+"}, {name: bleu}]
forgetting: {tokens: 0}
machine: {device: cpu, threads: 1}
budget: 90min
"""

CONFIG = b"""\
{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4,
 "n_positions": 64, "eos_token_id": [0, 1], "dtype": "float32", "id2label": {"0": "a"}, "is_encoder_decoder": false}
"""
INDEX = b'{"metadata": {"total_size": 1}, "weight_map": {"x": "a.safetensors", "y": "a.safetensors"}}'

ADAPTER = b"""\
{"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "x", "r": 2, "lora_alpha": 4, "bias": "none",
 "inference_mode": true, "target_modules": ["q"], "rank_pattern": {"k": 2}, "alpha_pattern": {"q": 8.0}}
"""
FACTORS = save(
    {f"base_model.model.q.lora_{side}.weight": np.ones(shape, np.float32) for side, shape in FACTOR_SHAPES.items()}
)
CARD = b"""\
---
configs:
- config_name: default
  data_files:
  - {split: train, path: train.jsonl}
  - {split: test, path: ["data/*.jsonl"]}
dataset_info: {features: [{name: label, dtype: {class_label: {names: {"0": a, "1": b}}}}]}
---
# A card
"""

# What each target begins with, and its check.
TARGETS: dict[str, tuple[bytes, Callable[[bytes], None]]] = {
    ".jsonl": (JSON_LINES, lambda content: check_file(".jsonl", content)),
    ".json": (json.dumps(ROWS, indent=1).encode(), lambda content: check_file(".json", content)),
    ".csv": (b'text,label\r\n"a,\nb",x\r\nc,"d""e"\r\n', lambda content: check_file(".csv", content)),
    ".txt": ("one\r\n\r\n\r\ntwo\n\n\n\n caf\xe9".encode(), lambda content: check_file(".txt", content)),
    ".parquet": (parquet_of(ROWS), lambda content: check_file(".parquet", content)),
    ".jsonl.gz": (gzip.compress(JSON_LINES, mtime=0), lambda content: check_file(".jsonl.gz", content)),
    "study": (STUDY, check_study),
    "model": (CONFIG, lambda content: check_model("config.json", content)),
    "adapter": (ADAPTER, lambda content: check_adapter(ADAPTER_CONFIG, content)),
    "factors": (FACTORS, lambda content: check_adapter(ADAPTER_WEIGHTS, content)),
    "card": (CARD, check_card),
    "index": (INDEX, lambda content: check_model("model.safetensors.index.json", content)),
}

# Fragments that have a meaning to one of the readers.
PIECES = [
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\r", b"\n", b"\t", b"\x1b[2J"),
    *(b'"', b"'", b",", b"NaN", b"1e999", b"-0", b"9" * 4400, b"null", b"true", b"yes", b"~", b"]", b"}", b": "),
    *(b"[" * 2000, b"{" * 300, b"x" * 300, b"&a ", b"*a", b"<<: *f", b"!!python/name:os ", b"!!set ", b"? ", b"- "),
    *(b"--- ", b"%YAML 9.9\n", b"#", b"|\n", b">\n", b"2026-13-45", b"0x", b"0b2", b"1:99", b".inf", b"=", b"../.."),
    *(b"/", b"PAR1", b"\x1f\x8b", "\u202e\u2028".encode(), b"hf_abcdefghijklmnopqrstuvwxyz", b"1e-4", b"auto"),
    *(b"method", b"rank", b"options", b"base"),
]


@st.composite
def mutated(draw: st.DrawFn, start: bytes) -> bytes:
    """`start` after some changes: bytes flipped, pieces put in, stretches cut out or doubled."""
    content = bytearray(start)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["piece", "byte", "cut", "double", "bytes"]))
        length = draw(st.integers(1, 30))
        if kind == "piece":
            content[at:at] = draw(st.sampled_from(PIECES))
        elif kind == "byte" and content:
            content[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at : at + length]
        elif kind == "double":
            content[at:at] = content[at : at + length]
        else:
            content[at:at] = draw(st.binary(max_size=12))
    return bytes(content)


def contents(target: str) -> st.SearchStrategy[bytes]:
    """Bytes for a target: changed good ones, and any."""
    return mutated(TARGETS[target][0]) | mutated(TARGETS[target][0]) | st.binary(max_size=200)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
