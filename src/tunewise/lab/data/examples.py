"""Task of a source, conversion of its rows to examples, and the same conversion of a new prompt."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from tunewise.errors import DataError
from tunewise.lab.data.alpaca import Alpaca, is_alpaca
from tunewise.lab.data.chat.chat import Chat
from tunewise.lab.data.classify import Labelled
from tunewise.lab.data.column_names import ALPACA, CONVERSATIONS, advice, are_turns, columns_line, nearest
from tunewise.lab.data.lm import Documents, sample_length
from tunewise.lab.data.rows import Format, runs
from tunewise.lab.data.sft import Pairs
from tunewise.lab.data.sources.sources import read_source
from tunewise.lab.data.tokens import TextTokenizer
from tunewise.spec import TASKS, DataSpec, StudySpec, Task
from tunewise.text.suggest import listed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Columns that determine the task. A label makes text a classification, so plain text comes last.
TASK_COLUMNS: tuple[tuple[Task, frozenset[str]], ...] = (
    ("sft", frozenset({"messages"})),
    ("sft", frozenset({"conversations"})),
    ("sft", frozenset({"completion"})),
    ("sft", frozenset({"prompt", "references"})),
    ("sft", ALPACA),
    ("classify", frozenset({"text", "label"})),
    ("lm", frozenset({"text"})),
)


def infer_task(columns: Collection[str], mapped: Mapping[str, str] | None = None) -> Task:
    """Task of a source with these columns; columns mapped by the study have priority.

    Raises DataError if the columns fit no task, or more than one.
    """
    mapped = mapped or {}
    others = {*columns} - {*mapped.values()}
    # a mapped text column alone is not enough: with a label among the other columns it is a classification
    found = [task for task in _tasks({*mapped}) if task != "lm"] or _tasks({*mapped, *others})
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"the columns ({listed(columns)}) fit the tasks {' and '.join(found)}. "
            f"Set {' or '.join(f'`task: {task}`' for task in found)}."
        )
    near = "" if columns_line(columns) else nearest(columns)
    raise DataError(
        f"the task cannot be inferred from the columns ({listed(columns) or 'none'}).{near} Needed are prompt "
        "and completion, or messages, or text and label, or text. The columns of Alpaca and ShareGPT also work. "
        f"{advice(columns)}"
    )


def _tasks(names: set[str]) -> list[Task]:
    found = dict.fromkeys(task for task, needed in TASK_COLUMNS if needed <= names)
    if "classify" in found:
        del found["lm"]
    return list(found)


def choose_format(
    task: Task, columns: Collection[str], data: DataSpec, tokenizer: TextTokenizer, max_length: int
) -> Format:
    """Format that turns rows with these columns into examples of `task`. Raises errors of the format's settings."""
    if task == "lm":
        return Documents(tokenizer, max_length)
    if TASKS[task].has_classes:
        return Labelled(tokenizer, max_length)
    is_chat = bool({*CONVERSATIONS} & {*columns, *data.columns}) and "completion" not in data.columns
    if is_chat or are_turns(columns, data.columns_of("train")):
        return Chat(data, tokenizer, max_length)
    pairs = Pairs(data, tokenizer, max_length)
    return Alpaca(pairs) if is_alpaca(columns, data) else pairs


def prompt_ids(
    study: StudySpec, task: Task, tokenizer: "PreTrainedTokenizerBase", prompt: str, *, is_chat: bool | None = None
) -> list[int]:
    """Tokens that a tuned model reads for a new prompt: as in training, up to where its answer begins.

    `is_chat`: the training prompts were conversations. None: not known, so the source is read again, unless there is no
    chat template and they cannot be conversations. Raises DataError.
    """
    data = study.data
    if is_chat is None and task == "sft" and (tokenizer.chat_template or data.chat_template):
        columns: Collection[str] = read_source(data.train, "train", data.document_separator, data.delimiter).first()
    else:
        columns = ("messages",) if is_chat else ()
    max_length = min(data.max_length, tokenizer.model_max_length)
    form = choose_format(task, columns, data.of_split("train"), TextTokenizer.of(tokenizer), max_length)
    return form.read_prompt(prompt)


def prompt_length(task: Task, supervised: Sequence[bool] | bytes) -> int:
    """Number of tokens of a prepared example that a model reads before it writes its own, for samples.

    Those before the last answer (sft), the beginning of a window (lm), or all of them (classify).
    """
    if TASKS[task].has_classes:
        return len(supervised)
    if task == "lm":
        return sample_length(len(supervised))
    return list(runs(supervised))[-1][0]
