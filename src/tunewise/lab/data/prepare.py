"""From the files of a study's data to the token examples that every run reads. Does not need torch.

Order: infer the task, read and render, split off missing splits, drop duplicates, limit, tokenize, check, write. Until
rows are sampled, each is two numbers (row_index.py); the text of the sampled ones is then read again.
"""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunewise.errors import DataError
from tunewise.lab.data.audit import (
    Separated,
    count_exact_duplicates,
    count_laws,
    count_near_duplicates,
    drop_duplicates,
    endless,
    keep_fitting,
    summarize,
)
from tunewise.lab.data.chat.chat import Chat
from tunewise.lab.data.classify import number_labels
from tunewise.lab.data.column_names import label_line, unread_label
from tunewise.lab.data.examples import choose_format, infer_task
from tunewise.lab.data.rows import EncodedRow, Format, Row, runs
from tunewise.lab.data.sources.general import general_examples
from tunewise.lab.data.sources.row_index import Source, group_column, index_rows
from tunewise.lab.data.sources.sources import Table, file_fingerprint, read_source, source_fingerprint
from tunewise.lab.data.splits import SPLITS, draw
from tunewise.lab.data.tokens import LONG_TEXT, TextTokenizer
from tunewise.lab.data.write import encode_rows, texts_hash, write_examples
from tunewise.records import BETWEEN_PARTS, LawCount, SplitSummary
from tunewise.spec import NUMERICS, TASKS, DataSpec, Split, StudySpec, Task, canonical_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PreparedExamples:
    """Summary of a study's prepared data; the examples themselves are in the folder's Parquet files."""

    task: Task
    labels: tuple[str, ...]  # classify: class names in the order of their ids
    splits: tuple[SplitSummary, ...]
    example_prompt: str  # the first training example, decoded from its tokens: the text read ...
    example_supervised: str  # ... and the text trained on
    notes: tuple[str, ...]  # remarks for the report
    exact_duplicates: int  # test inputs that are also training inputs
    near_duplicates: int  # test inputs with the same words as a training input
    laws: tuple[LawCount, ...]
    is_chat: bool  # rows are conversations
    data: str  # SHA-256 of the content of train, valid and test
    test_set: str  # SHA-256 of the texts of the rows of test, in any order and for any tokenizer
    general: str | None  # SHA-256 of the forgetting text's windows; None: not measured


# Settings without an effect of their own on the prepared data: contents of files are hashed, and runs resample.
NOT_PREPARED = ("train", "valid", "test", "chat_template", "resample")


def data_key(study: StudySpec, tokenizer_fingerprint: str) -> str:
    """16 hex digits that identify the prepared data of a study, computed without preparing it.

    A hash of the data's settings, the contents of its files, the tokenizer and the forgetting text, not of file names.
    The model's context length is not included, because the caller's key differs for another model. Raises DataError if
    a file is missing.
    """
    data = study.data
    forgetting = study.forgetting
    # later fields: omitted at their defaults, so that old keys stay valid
    later = {"delimiter": data.delimiter, "roles": data.roles}
    left_out = {name for name, value in later.items() if not value}
    content = {
        "settings": data.model_dump(mode="json", exclude={*NOT_PREPARED, *left_out}),
        "task": study.task,
        "sources": {split: source_fingerprint(source) for split, source in _sources(data).items()},
        "chat_template": _template_fingerprint(data.chat_template) if data.chat_template else None,
        "forgetting": [forgetting.tokens, source_fingerprint(forgetting.text)] if forgetting.tokens else None,
        "tokenizer": tokenizer_fingerprint,
        "numerics": NUMERICS,
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]


def _template_fingerprint(name: str) -> str:
    if not Path(name).exists() and re.fullmatch(r"\w[\w-]*", name):
        return f"the tokenizer's {name}"  # whose templates are in its own fingerprint
    try:
        return file_fingerprint(Path(name))
    except DataError as error:
        raise DataError(f"data.chat_template: {error} Give a Jinja file in UTF-8.") from error


def prepare_examples(
    study: StudySpec,
    tokenizer: "PreTrainedTokenizerBase",
    context_length: int,
    folder: Path,
    stops: Collection[int],
) -> PreparedExamples:
    """Write train, valid, test and general.parquet (records.EXAMPLES_SCHEMA), and return a summary of the data.

    `context_length` is the most tokens that the model reads, `stops` are those at which it ends a text. `folder` is
    created; general.parquet is written only for causal language models, if forgetting is measured. Raises DataError for
    unusable data, ModelError for an unusable tokenizer, SpecError for a bad template.
    """
    data, pieces = study.data, TextTokenizer.of(tokenizer)
    max_length = min(data.max_length, context_length)
    tables = _tables(data)
    first = {split: table.first() for split, table in tables.items()}  # unusable data is reported immediately
    task = study.task or infer_task(first["train"], data.columns_of("train"))
    form = choose_format(task, first["train"], data.of_split("train"), pieces, max_length)
    indexed = index_rows(_indexed_sources(tables, form, data), data)
    separated = drop_duplicates(indexed, data)
    drawn = indexed.fetch({split: rows.draw(getattr(data.limit, split)) for split, rows in separated.rows.items()})
    indexed.at_hand.clear()  # sampled rows are kept only until they are encoded
    num_drawn = {split: range(len(rows)) for split, rows in drawn.items()}
    exact, near = (count(drawn["test"], drawn["train"]) for count in (count_exact_duplicates, count_near_duplicates))
    text_notes, test_set = [*_long_notes(drawn), *_reasoning_notes(drawn)], texts_hash(drawn["test"])
    encoded = {split: encode_rows(form, rows) for split, rows in drawn.items()}
    # limited again because a document becomes many windows; other rows are within the limit already
    taken = {split: draw(members, getattr(data.limit, split)) for split, members in encoded.items()}
    fitted = {split: keep_fitting(split, members, task, data, max_length) for split, members in taken.items()}
    examples = {split: fitted[split].examples for split in SPLITS}
    labels, examples = number_labels(examples) if TASKS[task].has_classes else ((), examples)
    general = general_examples(study, pieces, max_length) if _forgets(study, task) else []
    read, learnt = _first_example(tokenizer, examples["train"][0])
    return PreparedExamples(
        task=task,
        labels=labels,
        splits=tuple(
            summarize(s, _source(data, s), len(indexed.rows[s]), separated.dropped[s], fitted[s], task) for s in SPLITS
        ),
        example_prompt=read,
        example_supervised=learnt,
        notes=(
            *indexed.notes,
            *_drawn_notes("rows", separated.rows, num_drawn),
            *_drawn_notes("windows", encoded, taken),
            *_unread_notes(study.task, task, first["train"]),
            *(_answer_notes(examples, tokenizer, stops) if task == "sft" else ()),
            *_remarks(data, max_length),
            *text_notes,
        ),
        exact_duplicates=exact,
        near_duplicates=near,
        laws=_laws(indexed.rows, separated, taken, task, stops),
        is_chat=isinstance(form, Chat),
        data=write_examples(folder, examples.items()),
        test_set=test_set,
        general=write_examples(folder, [("general", general)]) if general else None,
    )


def _indexed_sources(tables: Mapping[Split, Table], form: Format, data: DataSpec) -> dict[Split, Source]:
    group = group_column(data)
    return {split: Source(split, table, form, data.columns_of(split), group) for split, table in tables.items()}


def _tables(data: DataSpec) -> dict[Split, Table]:
    return {
        split: read_source(source, split, data.document_separator, data.delimiter)
        for split, source in _sources(data).items()
    }


def _laws(
    read: Mapping[Split, Sized],
    separated: Separated,
    taken: Mapping[Split, Sequence[EncodedRow]],
    task: Task,
    ends: Collection[int],
) -> tuple[LawCount, ...]:
    """Counts of the laws about data, split by split; `taken` are the examples before any is dropped."""
    return tuple(
        law
        for split in SPLITS
        for law in count_laws(split, taken[split], separated.same.get(split), len(read[split]), task, ends)
    )


def _sources(data: DataSpec) -> dict[Split, str]:
    return {split: source for split in SPLITS if (source := getattr(data, split)) is not None}


def _source(data: DataSpec, split: Split) -> str:
    return _sources(data).get(split, f"{data.train} (split off)")


def _forgets(study: StudySpec, task: Task) -> bool:
    return not TASKS[task].has_classes and study.forgetting.tokens > 0


def _first_example(tokenizer: "PreTrainedTokenizerBase", example: EncodedRow) -> tuple[str, str]:
    """The text read and the text trained on, decoded from the tokens; parts of each joined by BETWEEN_PARTS."""

    def decoded(marks: Sequence[bool] | bytes) -> str:
        return BETWEEN_PARTS.join(tokenizer.decode(list(example.input_ids[start:stop])) for start, stop in runs(marks))

    read = decoded([not mark for mark in example.supervised])
    return read, example.reference if example.label >= 0 else decoded(example.supervised)


def _long_notes(drawn: Mapping[Split, Sequence[Row]]) -> list[str]:
    """A remark for texts of which only the beginning is tokenized."""
    texts = (text for rows in drawn.values() for row in rows for text in (row.text.prompt, row.text.answer))
    count = sum(len(text) > LONG_TEXT for text in texts)
    if not count:
        return []
    return [
        f"{count:,} texts have more than {LONG_TEXT:,} characters. For answers and texts to "
        "classify of this length, only the beginning is tokenized, so more tokens are truncated than counted."
    ]


def _reasoning_notes(drawn: Mapping[Split, Sequence[Row]]) -> list[str]:
    """A remark if a chat template leaves out reasoning of turns that are only read."""
    counts = {split: sum(row.text.drops_reasoning for row in rows) for split, rows in drawn.items()}
    where = ", ".join(f"{count:,} of {len(drawn[split]):,} rows of {split}" for split, count in counts.items() if count)
    if not where:
        return []
    return [
        f"The chat template leaves out the reasoning of answers that are only read in {where}. The model will not read "
        "it in use either, because the template leaves it out there too."
    ]


def _drawn_notes(what: str, before: Mapping[Split, Sized], after: Mapping[Split, Sized]) -> list[str]:
    return [
        f"{len(after[split]):,} of {len(before[split]):,} {what} of {split} were sampled (data.limit)."
        for split in SPLITS
        if len(after[split]) < len(before[split])
    ]


def _unread_notes(asked: Task | None, task: Task, row: Mapping[str, object]) -> list[str]:
    """A remark if rows are plain text only because of their columns, and a column names a class."""
    label = unread_label(row) if asked is None and task == "lm" else None
    if label is None:
        return []
    return [
        f"The column '{label}' is not read: rows are plain text (task: lm). For classification add under data: "
        f"{label_line(label)}."
    ]


def _reference_notes(examples: Mapping[Split, Sequence[EncodedRow]]) -> list[str]:
    """Remarks on how several answers of a row are used."""
    several = {split: sum(len(example.references) > 1 for example in members) for split, members in examples.items()}
    where = [f"{count:,} of {len(examples[split]):,} rows of {split}" for split, count in several.items() if count]
    if not where:
        return []
    return [
        f"Several references in {', '.join(where)}: the row's completion, or its first "
        "reference if there is none, is trained on and scored by loss. Metrics of written text use all references."
    ]


def _answer_notes(
    examples: Mapping[Split, Sequence[EncodedRow]], tokenizer: "PreTrainedTokenizerBase", stops: Collection[int]
) -> list[str]:
    return [*_reference_notes(examples), *_stop_notes(examples["train"], tokenizer, stops)]


def _stop_notes(
    examples: Sequence[EncodedRow], tokenizer: "PreTrainedTokenizerBase", stops: Collection[int]
) -> list[str]:
    """A remark if complete answers lack a token at which a model stops (a chat template may not write it)."""
    whole = [example for example in examples if not example.cut_tokens and any(example.supervised)]
    unended = endless(examples, stops)
    if not unended or tokenizer.eos_token_id is None:
        return []
    return [
        f"{len(unended):,} of {len(whole):,} complete answers of train do not end with the end-of-text token "
        f"{tokenizer.eos_token!r}, so a tuned model may not stop there. Add it to the chat template."
    ]


def _remarks(data: DataSpec, max_length: int) -> list[str]:
    if max_length == data.max_length:
        return []
    return [
        f"Examples are limited to the model's context of {max_length:,} tokens (data.max_length: {data.max_length:,})."
    ]
