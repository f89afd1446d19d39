"""Properties of tasks: content of examples, counts, reported metrics. A new task is a new row here."""

from typing import Literal, NamedTuple

Task = Literal["sft", "lm", "classify"]


class TaskSpec(NamedTuple):
    """Everything about a task that is not its data formats or its loss."""

    has_classes: bool  # an example is a text and one of a few labels; otherwise tokens are predicted
    reported: tuple[str, ...]  # metrics; the first one decides the verdict unless the study names another
    judged: tuple[str, ...]  # metrics allowed for a verdict, besides those that a study defines itself

    @property
    def selection_metric(self) -> str:
        """Metric on the validation set that selects checkpoints and learning rates."""
        return self.reported[0]

    @property
    def target(self) -> str:
        """Name of one prediction that is trained on and counted."""
        return "row" if self.has_classes else "supervised token"

    @property
    def has_general_text(self) -> bool:
        """True if forgetting of general text can be measured; a classifier does not predict text."""
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
