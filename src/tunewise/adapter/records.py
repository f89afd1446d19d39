"""Findings about an adapter on disk: plain data, made with or without the lab."""

from typing import Literal

from tunewise.spec.frozen import Frozen

Rounding = Literal["whole", "nf4", "nf4-double"]  # of a base's linear weights; double: with quantized scales
Stored = Literal["fp32", "bf16", "fp16"]


class Agreement(Frozen):
    """One form of an adapted model compared with the adapter on its base."""

    form: str  # 'adapter', 'merged, fp32', ...
    nll: float | None  # nats per supervised token (classify: per example); None: no rows to score
    accuracy: float | None  # None: not a classification, or no rows to score
    max_logit_difference: float  # from the adapter's, over the first tokens of the data; 0 for the adapter itself


class Check(Frozen):
    """One check of a certificate."""

    name: str
    passed: bool
    sentence: str  # what was compared, and the result


class Certificate(Frozen):
    """Result of `tunewise adapter verify`: whether an adapter computes the same in every form in which it is used."""

    adapter: str
    base: str
    scored_on: str
    num_rows: int
    forms: tuple[Agreement, ...]  # adapter, read back, merged in fp32, merged in bf16
    checks: tuple[Check, ...]
    note: str | None = None  # what the scores assume; None: nothing

    @property
    def holds(self) -> bool:
        """True if every check passed."""
        return all(check.passed for check in self.checks)


class Merging(Frozen):
    """Result of `tunewise adapter merge`."""

    adapter: str
    base: str
    trained_on: Rounding  # storage of the base's weights while the adapter was trained
    onto: Rounding  # storage of the weights it was merged onto
    stored: Stored
    scored_on: str  # the data, in words
    files: tuple[str, ...]
    forms: tuple[Agreement, ...]  # adapter, merged in fp32, read back as stored
    note: str | None = None  # what the scores assume; None: nothing
