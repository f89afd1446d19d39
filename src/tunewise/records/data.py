"""Summary of the prepared data: counts, laws about data, and the number of steps of a run."""

from typing import Literal

from tunewise.records.tuned import TrainableSummary
from tunewise.spec import Device, Frozen, Inputs, Precision, Split, StudySpec, Task

# Properties of the user's data that silently distort results; counted row by row before training.
DataLaw = Literal["supervised", "truncation", "end-of-text", "duplicates", "boundary"]


# Separates the parts of the first training example, both the text read and the text trained on. A control character
# (record separator), because no text contains it.
BETWEEN_PARTS = "\x1e"


class SplitSummary(Frozen):
    """One split as it is trained on or scored."""

    split: Split
    source: str
    rows_read: int
    rows: int
    units: int
    effective_units: float | None = None  # equal units that would weigh as much by supervised tokens; None: not counted
    tokens: int
    supervised_tokens: int
    truncated_rows: int
    truncated_tokens: int
    duplicates_dropped: int


class LawCount(Frozen):
    """Number of rows of a split that a law about data concerns, with examples."""

    law: DataLaw
    split: Split
    count: int
    of: int  # rows that it could concern
    examples: tuple[str, ...]  # ids of the first such rows, at most three


class LeftByTrainer(Frozen):
    """What a trainer left beside a model: settings by name, and the training loss by step. Empty: nothing."""

    settings: dict[str, str] = {}  # by name: learning rate, steps, epochs, batch size, seed, rank and others
    losses: tuple[tuple[int, float], ...] = ()  # step and training loss, as the trainer logged it
    sources: tuple[str, ...] = ()  # the files that were read


class DataSummary(Frozen):
    """data.json: what the preparation found in the user's data, model and machine before training."""

    key: str  # name of the folder of the prepared data
    task: Task
    labels: tuple[str, ...]  # classify: class names in the order of their ids
    splits: tuple[SplitSummary, ...]
    example_prompt: str  # the first training example: the text read ...
    example_supervised: str  # ... and the text trained on
    notes: tuple[str, ...]  # facts that figures and findings do not show: splits made, rows dropped or sampled
    chat_template: str | None = None  # the study's own; saved with the tokenizer of the tuned models
    is_chat: bool | None = None  # prompts are conversations (sft); None: not recorded
    near_duplicates: int  # test inputs that are near-duplicates of a training input
    laws: tuple[LawCount, ...] = ()  # every law that applies to the task, split by split; (): not counted
    test_set: str | None = None  # SHA-256 of the texts of its rows, in any order; None: not recorded
    exact_duplicates: int | None = None  # test inputs that are also a training input; None: not counted
    inputs: Inputs
    existing: dict[str, str | tuple[str, ...]] = {}  # arm -> SHA-256 of its weights, or one for every seed
    left: dict[str, tuple[LeftByTrainer, ...]] = {}  # arm -> what trainers left in its folders, in the same order
    model_type: str
    hidden_size: int
    num_new_parameters: int  # weights that the checkpoint did not provide (a new head)
    head_modules: tuple[str, ...] | None = None  # modules trained in every arm; None: not recorded
    arms: dict[str, TrainableSummary]  # what each arm will train; parameter groups not filled in yet
    device: Device
    precision: Precision
    threads: int

    def split(self, name: Split) -> SplitSummary:
        """Summary of one split."""
        return next(s for s in self.splits if s.split == name)

    def weights_of(self, arm: str, place: int) -> str | None:
        """SHA-256 of the weights that an arm trained elsewhere has for the seed at this place; None: trained here."""
        found = self.existing.get(arm)
        return found[place] if isinstance(found, tuple) else found


def num_steps(study: StudySpec, data: DataSummary) -> int:
    """Optimizer steps of every run of the study."""
    return study.train.num_steps(data.split("train").rows)
