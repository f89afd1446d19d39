"""What models are asked to write, and which metrics of it a study asks for."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from tunewise.spec.frozen import Frozen
from tunewise.text.suggest import near_miss

# Those that are the share of texts in which something is found; a study may have several, under names of its own.
SHARES = ("exact_match", "matches")
TEXT_METRICS = (*SHARES, "bleu", "chrf", "rouge_l", "end_of_text", "length")
TAKEN = ("nll", "perplexity", "bits_per_byte", "accuracy", "macro_f1", "mcc", "calibration_error")


class SamplesSpec(Frozen):
    """Outputs of base and arms shown side by side (greedy decoding)."""

    count: int = Field(4, ge=0)
    max_new_tokens: int = Field(64, ge=1)


class MetricSpec(Frozen):
    """A metric of what confirmed models (and the base) write for the prompts of test, up to `samples.max_new_tokens`.

    `extract` is a regular expression; of its last match in a text, group 1 if it has one, is what counts. Under a name
    of its own a metric is, by `kind`, the share of texts in which it is the same as in the answer, or is found at all.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    extract: str | None = Field(
        None, description="exact_match: what is compared (None: the whole text); matches: what a text must hold"
    )
    kind: Literal["exact_match", "matches"] | None = Field(
        None, description="of a metric with a name of its own; None: exact_match"
    )

    @property
    def counted_as(self) -> str:
        """The name of the built-in metric that counts it."""
        return self.name if self.name in TEXT_METRICS else self.kind or "exact_match"

    @property
    def is_own(self) -> bool:
        """True if the study gave it its name."""
        return self.name not in TEXT_METRICS

    @model_validator(mode="after")
    def _name_is_free(self) -> Self:
        if self.name in TAKEN:
            raise ValueError(
                f"'{self.name}' is no metric of written text, but one that has its own place: leave it out"
            )
        if self.is_own and self.extract is None:
            raise ValueError(
                f"unknown metric '{self.name}'.{near_miss(self.name, TEXT_METRICS)} Known: {', '.join(TEXT_METRICS)}; "
                "one of your own needs `extract`, a regular expression"
            )
        if not self.is_own and self.kind is not None:
            raise ValueError(f"{self.name} has no `kind`: give the metric a name of its own")
        return self

    @model_validator(mode="after")
    def _extract_fits(self) -> Self:
        if self.extract is None:
            if self.counted_as == "matches":
                raise ValueError("matches needs `extract`, a regular expression that a good text matches")
            return self
        if self.counted_as not in SHARES:
            raise ValueError(f"{self.name} has no `extract`: only exact_match, matches and metrics of your own do")
        try:
            re.compile(self.extract)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"extract '{self.extract:.80}' is no regular expression: {error}") from error
        return self
