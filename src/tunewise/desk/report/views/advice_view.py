"""The report's last section: what to do, why, at which cost, and what is not known."""

from typing import Literal

from tunewise.spec import Frozen

Topic = Literal["method", "rank", "targets", "learning rate", "epochs"]


class AdviceItem(Frozen):
    """One recommendation, or why there is none."""

    topic: Topic
    say: str | None  # None: the records do not carry any
    reason: str
    runs: tuple[str, ...]  # ids of the records that it rests on


class Alternative(Frozen):
    """Another arm: how it stands, and what it costs."""

    arm: str
    standing: str
    trainable_parameters: int | None
    train_seconds: float | None
    peak_memory_bytes: int | None
    saved_bytes: int | None


class Advice(Frozen):
    """What the records recommend, and no more."""

    arm: str | None  # the one that all of it is about; None: no arm is recommended
    items: tuple[AdviceItem, ...]
    alternatives: tuple[Alternative, ...]
    missing: tuple[str, ...]  # evidence that would say more, and how to get it
