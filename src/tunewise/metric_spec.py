"""Which metrics of written text a study asks for, and which metric it is judged by."""

import re
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from tunewise.quantities import DEFAULT_MARGINS, Frozen
from tunewise.registry import near_miss


class MetricSpec(Frozen):
    """A metric of what confirmed models (and the base) write for the prompts of test, up to `samples.max_new_tokens`.

    `extract` is a regular expression; of its last match in a text, group 1 if it has one, is what counts.
    """

    name: Literal["exact_match", "matches", "bleu", "chrf", "rouge_l", "end_of_text", "length"]
    extract: str | None = Field(
        None, description="exact_match: what is compared (None: the whole text); matches: what a text must hold"
    )

    @model_validator(mode="after")
    def _extract_fits(self) -> Self:
        if self.extract is None:
            if self.name == "matches":
                raise ValueError("matches needs `extract`, a regular expression that a good text matches")
            return self
        if self.name not in ("exact_match", "matches"):
            raise ValueError(f"{self.name} has no `extract`: only exact_match and matches do")
        try:
            re.compile(self.extract)
        except re.error as error:
            raise ValueError(f"extract '{self.extract}' is no regular expression: {error}") from error
        return self


def check_primary(primary: str | None, metrics: Sequence[MetricSpec], margin: str | None) -> None:
    """Raises ValueError where a verdict cannot be about `primary`; whether it fits the task is known later."""
    if primary is None:
        return
    if primary == "perplexity":
        raise ValueError(
            "primary: perplexity is exp of nll, and a margin in it would mean something else at every level. "
            "Write nll: the ratio of the perplexities is printed beside its verdict."
        )
    allowed = ("nll", "bits_per_byte", "accuracy", "macro_f1", "mcc", *(metric.name for metric in metrics))
    if primary not in allowed:
        hint = near_miss(primary, allowed)
        raise ValueError(f"primary: '{primary}' is not measured.{hint} Known: {', '.join(allowed)}.")
    if margin is None and primary not in DEFAULT_MARGINS:
        raise ValueError(f"primary: {primary} needs a margin: the loss of it that you accept, such as '1pp'")
