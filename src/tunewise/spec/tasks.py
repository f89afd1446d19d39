"""What a task is: what its examples hold, what is counted, which metrics it reports. A new task is a row here."""

from typing import Literal, NamedTuple

Task = Literal["sft", "lm", "classify"]


class TaskSpec(NamedTuple):
    """The answers that everything but the data formats and the loss needs of a task."""

    has_classes: bool  # an example is a text and one of a few labels; otherwise its tokens are predicted
    reported: tuple[str, ...]  # metrics; the first is what a verdict is about unless the study says otherwise
    judged: tuple[str, ...]  # metrics that a verdict may be about, those that a study defines itself apart

    @property
    def selection_metric(self) -> str:
        """What checkpoints and learning rates are selected by, on the validation set."""
        return self.reported[0]

    @property
    def target(self) -> str:
        """What is learned from and counted, in words."""
        return "row" if self.has_classes else "supervised token"

    @property
    def has_general_text(self) -> bool:
        """Whether forgetting of general text can be measured: a classifier predicts no text."""
        return not self.has_classes


_OF_TEXT = ("nll", "perplexity", "bits_per_byte")
TASKS: dict[Task, TaskSpec] = {
    "sft": TaskSpec(
        has_classes=False,
        reported=_OF_TEXT,
        judged=("nll", "bits_per_byte", "exact_match", "matches", "bleu", "chrf", "rouge_l"),
    ),
    "lm": TaskSpec(has_classes=False, reported=_OF_TEXT, judged=("nll", "bits_per_byte")),
    "classify": TaskSpec(
        has_classes=True,
        reported=("accuracy", "macro_f1", "mcc", "nll", "calibration_error"),
        judged=("accuracy", "macro_f1", "mcc", "nll"),
    ),
}
