"""The advice section of the report: recommendations with reasons and costs, and the limits of the study."""

from typing import Literal

from tunewise.spec import Frozen

Topic = Literal["method", "rank", "targets", "learning rate", "epochs"]


class AdviceItem(Frozen):
    """One recommendation, or why there is none."""

    topic: Topic
    say: str | None  # None: the records do not support one
    reason: str
    runs: tuple[str, ...]  # ids of the runs that it is based on


class Alternative(Frozen):
    """Another arm, with its verdict and cost."""

    arm: str
    standing: str
    trainable_parameters: int | None
    train_seconds: float | None
    peak_memory_bytes: int | None
    saved_bytes: int | None


class Advice(Frozen):
    """The recommendation that the records support."""

    arm: str | None  # the recommended arm; None: none
    items: tuple[AdviceItem, ...]
    alternatives: tuple[Alternative, ...]
    missing: tuple[str, ...]  # limits of the study, and how to get more evidence
