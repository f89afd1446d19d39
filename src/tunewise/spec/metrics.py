"""Text that models write, and the metrics that a study computes from it."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from tunewise.spec.frozen import Frozen
from tunewise.spec.quantities import DEFAULT_MARGINS, MarginText
from tunewise.spec.words import Source
from tunewise.text.regex import compiled
from tunewise.text.suggest import near_miss

# Metrics that are shares of texts; a study may define several of its own.
SHARES = ("exact_match", "matches")
TEXT_METRICS = (*SHARES, "bleu", "chrf", "rouge_l", "end_of_text", "length")
TAKEN = ("nll", "perplexity", "bits_per_byte", "accuracy", "macro_f1", "mcc", "calibration_error")


class SamplesSpec(Frozen):
    """Sample outputs of the base and the arms, shown next to each other (greedy decoding)."""

    count: int = Field(4, ge=0)
    max_new_tokens: int = Field(64, ge=1)


class MetricSpec(Frozen):
    """A metric of the texts that confirmed models and the base write for the test prompts.

    Texts have up to `samples.max_new_tokens` tokens. `extract` is a regular expression. Its last match in a text
    counts, or group 1 of that match if there is a group. A metric with a name of its own is the share of texts that
    agree with the answer (kind exact_match) or contain a match at all (kind matches).
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    extract: str | None = Field(
        None, description="exact_match: the part compared (None: the whole text); matches: what a text must contain"
    )
    kind: Literal["exact_match", "matches"] | None = Field(
        None, description="for a metric with a name of its own; None: exact_match"
    )

    @property
    def counted_as(self) -> str:
        """Name of the built-in metric that computes this one."""
        return self.name if self.name in TEXT_METRICS else self.kind or "exact_match"

    @property
    def is_own(self) -> bool:
        """True if the study chose the name."""
        return self.name not in TEXT_METRICS

    @model_validator(mode="after")
    def _name_is_free(self) -> Self:
        if self.name in TAKEN:
            raise ValueError(f"'{self.name}' is always reported and is not a metric of written text: remove it")
        if self.is_own and self.extract is None:
            raise ValueError(
                f"unknown metric '{self.name}'.{near_miss(self.name, TEXT_METRICS)} Known: {', '.join(TEXT_METRICS)}. "
                "A metric of your own needs `extract`, a regular expression"
            )
        if not self.is_own and self.kind is not None:
            raise ValueError(f"{self.name} takes no `kind`: give the metric a name of its own")
        return self

    @model_validator(mode="after")
    def _extract_fits(self) -> Self:
        if self.extract is None:
            if self.counted_as == "matches":
                raise ValueError("matches needs `extract`, a regular expression that a good text matches")
            return self
        if self.counted_as not in SHARES:
            raise ValueError(f"{self.name} takes no `extract`: only exact_match, matches and metrics of your own do")
        try:
            compiled(self.extract)
        except ValueError as error:
            raise ValueError(f"extract '{self.extract:.80}' is not a regular expression: {error}") from error
        return self


class SecondarySpec(Frozen):
    """A second metric of every verdict. Both metrics of all arms share one error (Holm)."""

    metric: str = Field(description="a metric of the study other than that of the first verdict")
    margin: MarginText = Field(description="acceptable quality loss in this metric: '0.02', '1pp', or '5% of gain'")


def check_primary(primary: str | None, metrics: Sequence[MetricSpec], margin: str | None) -> None:
    """Raise ValueError if `primary` cannot be the metric of a verdict. Whether it fits the task is checked later."""
    if primary is None:
        return
    _check_judged("primary", primary, metrics)
    if margin is None and primary not in DEFAULT_MARGINS:
        raise ValueError(f"primary: {primary} needs a margin, the loss that you accept, such as '1pp'")


def check_secondary(secondary: SecondarySpec, primary: str | None, metrics: Sequence[MetricSpec]) -> None:
    """Raise ValueError if it cannot be the second metric of a verdict. Whether it fits the task is checked later."""
    _check_judged("secondary.metric", secondary.metric, metrics)
    if secondary.metric == primary:
        raise ValueError(f"secondary.metric: {primary} is already the primary metric. Name another one or remove it.")


def check_selection(primary: str | None, metrics: Sequence[MetricSpec]) -> None:
    """Raise ValueError if `select_by: primary` has no metric that can select: a share of texts, each right or wrong."""
    shares = [metric.name for metric in metrics if metric.counted_as in SHARES]
    if primary not in shares:
        known = ", ".join(shares) or "exact_match, under metrics"
        raise ValueError(
            f"select_by: primary needs a primary metric that is a share of texts, but primary is {primary}. Set "
            f"primary to one ({known}), or remove select_by"
        )


def _check_judged(key: str, name: str, metrics: Sequence[MetricSpec]) -> None:
    if name == "perplexity":
        raise ValueError(
            f"{key}: perplexity is exp(nll), so the meaning of a margin would depend on its level. "
            "Write nll: the verdict also shows the ratio of perplexities."
        )
    allowed = ("nll", "bits_per_byte", "accuracy", "macro_f1", "mcc", *(metric.name for metric in metrics))
    if name not in allowed:
        written = f" Add {{name: {name}}} to metrics, so that the test answers are written."
        hint = written if name in TEXT_METRICS else near_miss(name, allowed)
        raise ValueError(f"{key}: '{name}' is not measured.{hint} Known: {', '.join(allowed)}.")


def text_alone(value: object) -> object:
    """Turn `forgetting: FILE` into `forgetting: {text: FILE}`."""
    return {"text": value} if isinstance(value, str) else value


class ForgettingSpec(Frozen):
    """General text on which tuned models are compared with the base (causal language models only)."""

    text: Source = Field("builtin:pydoc-topics", description="text file, or builtin:pydoc-topics")
    tokens: int = Field(20_000, ge=0, description="tokens of general text; 0: forgetting is not measured")
    points: int = Field(
        10, ge=0, description="measurements during every confirmed run, evenly spaced; 0: only at its end"
    )
