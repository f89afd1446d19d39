"""What was found out about an adapter on disk: plain data, from the lab or without it."""

from typing import Literal

from tunewise.spec.frozen import Frozen

Rounding = Literal["whole", "nf4", "nf4-double"]  # of a base's linear weights; double: QLoRA's scales are rounded, too
Stored = Literal["fp32", "bf16", "fp16"]


class Agreement(Frozen):
    """One form of an adapted model beside the adapter on its base."""

    form: str  # 'adapter', 'merged, fp32', ...
    nll: float | None  # nats per supervised token (classify: per example); None: nothing to score it on
    accuracy: float | None  # None: not a classification, or nothing to score it on
    max_logit_difference: float  # from the adapter's, over the first tokens of the data; 0 for the adapter itself


class Check(Frozen):
    """One thing that a certificate holds, or not."""

    name: str
    passed: bool
    sentence: str  # what was compared, and what came out


class Certificate(Frozen):
    """What `tunewise adapter verify` found: whether an adapter computes the same in every form it is used in."""

    adapter: str
    base: str
    scored_on: str
    num_rows: int
    forms: tuple[Agreement, ...]  # adapter, read back, merged in fp32, merged in bf16
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """True if every check passed."""
        return all(check.passed for check in self.checks)


class Merging(Frozen):
    """What `tunewise adapter merge` did."""

    adapter: str
    base: str
    trained_on: Rounding  # how the base's weights were while the adapter was trained
    onto: Rounding  # the weights it was merged onto
    stored: Stored
    scored_on: str  # the data, in words
    files: tuple[str, ...]
    forms: tuple[Agreement, ...]  # adapter, merged in fp32, read back as it is stored
