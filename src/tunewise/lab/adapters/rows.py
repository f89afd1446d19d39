"""Rows on which an adapter's forms are scored: from a file, or text that comes with Python."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from transformers import PreTrainedTokenizerBase

from tunewise.errors import DataError
from tunewise.lab.adapters.load import AdapterFolder
from tunewise.lab.data.audit import endless, keep_fitting
from tunewise.lab.data.batching import Example
from tunewise.lab.data.classify import number_labels
from tunewise.lab.data.column_names import label_advice
from tunewise.lab.data.examples import choose_format, infer_task
from tunewise.lab.data.rows import EncodedRow, Row
from tunewise.lab.data.sources.row_index import Source, group_column
from tunewise.lab.data.sources.sources import read_source
from tunewise.lab.data.tokens import TextTokenizer
from tunewise.lab.models.class_order import names_beside, require_order
from tunewise.spec import TASKS, DataSpec, Task
from tunewise.text.suggest import listed

PYTHON_TEXT = DataSpec(train="builtin:pydoc-topics", max_length=256)
NUM_PYTHON_ROWS = 8  # up to 2,000 tokens: enough to see a difference, scored in seconds


@dataclass(frozen=True)
class ScoredRows:
    """Rows as examples, and facts about them."""

    examples: tuple[Example, ...]
    source: str  # in words
    has_answers: bool  # False: there is no label or text for a loss
    task: Task
    num_endless: int = 0  # complete answers without an end-of-text token
    template_agrees: bool | None = None  # ids equal those of `apply_chat_template` in use; None: not conversations
    note: str | None = None  # what the scores assume; None: nothing


def rows_of(adapter: AdapterFolder, data: DataSpec | None) -> ScoredRows:
    """Rows of `data.train` as the adapter's base reads them; None: topics of Python's documentation.

    Raises DataError for rows that do not fit the adapter's task, and for unreadable rows.
    """
    chosen = (data or PYTHON_TEXT).of_split("test")
    table = read_source(chosen.train, "test", chosen.document_separator, chosen.delimiter)
    first, columns = table.first(), chosen.columns_of("test")
    task: Task = infer_task(first, columns)
    if data and TASKS[task].has_classes != TASKS[adapter.task].has_classes:
        raise DataError(
            f"{data.train}: the rows are for the task {task}, but {adapter.path} is for {adapter.task}. Use rows with "
            f"{'text and label' if TASKS[adapter.task].has_classes else 'prompt and completion, messages, or text'}."
            f"{label_advice(first) if TASKS[adapter.task].has_classes else ''}"
        )
    max_length = min(chosen.max_length, adapter.context_length)
    form = choose_format(task, first, chosen, TextTokenizer.of(adapter.tokenizer), max_length)
    source = Source("test", table, form, columns, group_column(chosen))
    rendered = [row for row in source.rows() if row is not None]
    encoded = form.encode(rendered)
    if data is None:
        examples = encoded[:NUM_PYTHON_ROWS]
        if TASKS[adapter.task].has_classes:
            examples = [replace(example, label=0, supervised=[False] * len(example.input_ids)) for example in examples]
        _require_tokens(adapter, examples)
        return ScoredRows(
            _plain(examples), "topics of Python's documentation", not TASKS[adapter.task].has_classes, task
        )
    examples = keep_fitting("test", encoded, task, chosen, max_length).examples
    _require_tokens(adapter, examples)
    note = None
    if TASKS[task].has_classes:
        examples, note = _numbered(examples, adapter, chosen.train)
    endless_rows = len(endless(encoded, adapter.stops)) if task == "sft" else 0
    template_agrees = _template_agrees(adapter.tokenizer, rendered, encoded)
    return ScoredRows(_plain(examples), chosen.train, True, task, endless_rows, template_agrees, note)


def _require_tokens(adapter: AdapterFolder, examples: Sequence[EncodedRow]) -> None:
    if not all(example.input_ids for example in examples):
        owner = adapter.path if adapter.has_own_tokenizer else adapter.base
        raise DataError(
            f"the tokenizer of {owner} makes no tokens from a row. Check that the base was trained with this tokenizer."
        )


def _template_agrees(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], encoded: list[EncodedRow]) -> bool | None:
    """True if the ids are those of the tokenizer's own `apply_chat_template`, which is used with the model."""
    conversations = [(row.text, example) for row, example in zip(rows, encoded, strict=True) if row.text.messages]
    if not conversations:
        return None
    if tokenizer.chat_template is None:
        return False
    for text, example in conversations:
        used = tokenizer.apply_chat_template(
            list(text.messages), tools=list(text.tools) or None, tokenize=True, return_dict=True
        )["input_ids"]
        # if a token would span prompt and answer, they may have been tokenized separately, as in use
        is_same_text = example.merges and tokenizer.decode(used).startswith(tokenizer.decode(example.input_ids))
        if not is_same_text and list(used)[: len(example.input_ids)] != example.input_ids:
            return False
    return True


def _numbered(examples: list[EncodedRow], adapter: AdapterFolder, source: str) -> tuple[list[EncodedRow], str | None]:
    """The rows with the numbers of their classes, and what these numbers assume."""
    names, by_split = number_labels({"train": examples})
    if len(names) != len(adapter.labels):
        raise DataError(
            f"{source} has {len(names)} classes ({', '.join(names)[:100]}), but {adapter.path} distinguishes "
            f"{len(adapter.labels)}. Give rows of every class."
        )
    examples, own = by_split["train"], names_beside(adapter.path)
    if own is None:  # most adapters do not name their classes
        return examples, (
            f"{adapter.path} does not name its classes. NLL and accuracy assume that they are in this order: "
            f"{listed(names)}."
        )
    order = require_order(str(adapter.path), own, names)
    return [replace(example, label=order[example.label]) for example in examples], None


def _plain(examples: Sequence[EncodedRow]) -> tuple[Example, ...]:
    names = [field.name for field in fields(Example)]
    return tuple(Example(**{name: getattr(example, name) for name in names}) for example in examples)
