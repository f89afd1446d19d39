"""Prepared examples on their way to disk: kept in little memory, written and hashed in parts."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tunewise.lab.data.rows import EncodedRow, Format, Row
from tunewise.records import EXAMPLES_SCHEMA, REFERENCES_FIELD
from tunewise.spec import canonical_json
from tunewise.storage.disk import make_folder, write_with

BATCH = 500  # rows that are tokenized together
PART = 5_000  # examples that are written together


def encode_rows(form: Format, rows: list[Row]) -> list[EncodedRow]:
    """Examples of the rows, their tokens as plain numbers: lists of objects take ten times the memory.

    `rows` is emptied. Raises what `form.encode` raises.
    """
    rows.reverse()
    examples: list[EncodedRow] = []
    while rows:
        batch = rows[: -BATCH - 1 : -1]
        del rows[-BATCH:]
        examples += map(_compact, form.encode(batch))
    return examples


def _compact(example: EncodedRow) -> EncodedRow:
    return replace(example, input_ids=array("i", example.input_ids), supervised=bytes(example.supervised))


def texts_hash(rows: Iterable[Row]) -> str:
    """SHA-256 of the texts of rows: the same in any order, for any tokenizer, chat template or limit of tokens."""
    read = ([row.text.messages or [row.text.prompt, row.text.answer], row.text.references] for row in rows)
    texts = sorted(map(canonical_json, read))
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def write_examples(folder: Path, splits: Iterable[tuple[str, Sequence[EncodedRow]]]) -> str:
    """Write each table to `<folder>/<split>.parquet` and return the SHA-256 of their content.

    It covers each table's name and, column by column, the values as JSON, so not how Parquet stores them.
    """
    make_folder(folder)
    digest = hashlib.sha256()
    for split, examples in splits:
        has_references = any(example.references for example in examples)
        schema = EXAMPLES_SCHEMA.append(REFERENCES_FIELD) if has_references else EXAMPLES_SCHEMA
        _write(folder / f"{split}.parquet", examples, schema)
        digest.update(split.encode())
        for name in schema.names:
            digest.update(f'["{name}",['.encode())
            for number, part in enumerate(_parts(examples)):
                digest.update(b"," * (number > 0) + _as_json([getattr(example, name) for example in part]))
            digest.update(b"]]")
    return digest.hexdigest()


def _as_json(values: list[Any]) -> bytes:
    """JSON of the values as `canonical_json` writes it; for tokens and marks in a tenth of the memory."""
    if isinstance(values[0], bytes):
        return b",".join(b"[%b]" % marks.replace(b"\0", b"false,").replace(b"\1", b"true,")[:-1] for marks in values)
    if isinstance(values[0], array):
        return ",".join(repr(ids.tolist()).replace(" ", "") for ids in values).encode()
    return canonical_json(values)[1:-1].encode()


def _write(path: Path, examples: Sequence[EncodedRow], schema: pa.Schema) -> None:
    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema) as writer:
            for part in _parts(examples):
                columns = [_column(field.type, [getattr(example, field.name) for example in part]) for field in schema]
                writer.write_table(pa.table(columns, schema=schema))

    write_with(path, write)


def _column(kind: pa.DataType, values: list[Any]) -> pa.Array:
    if not isinstance(values[0], bytes | array):
        return pa.array(values, kind)
    flat = np.frombuffer(b"".join(bytes(value) for value in values), bool if isinstance(values[0], bytes) else np.int32)
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, pa.array(flat, kind.value_type), kind)


def _parts(examples: Sequence[EncodedRow]) -> Iterator[Sequence[EncodedRow]]:
    return (examples[start : start + PART] for start in range(0, len(examples), PART))
