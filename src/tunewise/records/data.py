"""What preparing the data found out: counts, laws and how many steps a run has."""

from typing import Literal

from tunewise.records.tuned import Tuned
from tunewise.spec import Device, Frozen, Inputs, Precision, Split, StudySpec, Task

# What about the user's data spoils figures in silence; counted row by row before anything is trained.
DataLaw = Literal["supervised", "truncation", "end-of-text", "duplicates", "boundary"]


# Between the parts of the first training example, in what is read and in what is trained on: a control character
# (record separator), because no text holds it.
BETWEEN_PARTS = "\x1e"


class SplitSummary(Frozen):
    """One split as it is trained on or scored."""

    split: Split
    source: str
    rows_read: int
    rows: int
    units: int
    tokens: int
    supervised_tokens: int
    truncated_rows: int
    truncated_tokens: int
    duplicates_dropped: int


class LawCount(Frozen):
    """How many rows of a split a law about data concerns, and where to look."""

    law: DataLaw
    split: Split
    count: int
    of: int  # rows that it could concern
    examples: tuple[str, ...]  # ids of the first of them, three at most


class DataSummary(Frozen):
    """data.json: what became of the user's data, model and machine before anything was trained."""

    key: str  # names the folder of the prepared data
    task: Task
    labels: tuple[str, ...]  # classify: the class names in order of their ids
    splits: tuple[SplitSummary, ...]
    example_prompt: str  # the first training example: what is read ...
    example_supervised: str  # ... and what is trained on
    notes: tuple[str, ...]  # what figures and findings do not tell: splits made, rows left out or drawn
    chat_template: str | None = None  # the study's own; saved with the tuned models' tokenizer
    is_chat: bool | None = None  # prompts are conversations (sft); None: not recorded
    near_duplicates: int  # test inputs that are nearly a training input
    laws: tuple[LawCount, ...] = ()  # every law that concerns the task, split by split; (): not counted
    exact_duplicates: int | None = None  # test inputs that are a training input, too; None: not counted
    inputs: Inputs
    existing: dict[str, str] = {}  # arm -> SHA-256 of the weights it brings
    model_type: str
    hidden_size: int
    num_new_parameters: int  # weights the checkpoint did not provide (a new head)
    head_modules: tuple[str, ...] | None = None  # that learn in every arm; None: not recorded
    arms: dict[str, Tuned]  # what each arm will train; no parameter groups yet
    device: Device
    precision: Precision
    threads: int

    def split(self, name: Split) -> SplitSummary:
        """The summary of one split."""
        return next(s for s in self.splits if s.split == name)


def num_steps(study: StudySpec, data: DataSummary) -> int:
    """Optimizer steps of every run of the study."""
    return study.train.num_steps(data.split("train").rows)
