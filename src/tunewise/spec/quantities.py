"""Quantities that a study writes as text, such as the margin and the budget."""

import math
import re
import unicodedata
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tunewise.spec.frozen import Frozen


class Margin(Frozen):
    """Largest acceptable quality loss. If both parts are given, both must hold."""

    absolute: float | None = Field(None, gt=0, description="largest loss in units of the metric")
    share_of_gain: float | None = Field(
        None, gt=0, lt=1, description="largest loss as a share of the gain of full fine-tuning over the base"
    )

    @model_validator(mode="after")
    def _has_a_part(self) -> Self:
        if self.absolute is None and self.share_of_gain is None:
            raise ValueError("a margin needs an absolute part, a share of the gain, or both")
        return self


# Of the margin: the gain of a better learning rate that a search neglects and that counts against no outcome.
HEADROOM_SHARE = 0.25
DEFAULT_MARGINS = {
    "nll": Margin(absolute=0.02, share_of_gain=0.05),
    "accuracy": Margin(absolute=0.01),
    "exact_match": Margin(absolute=0.01),
}


def parse_margin(text: str) -> Margin:
    """Read '0.02' as absolute 0.02, '1pp' as absolute 0.01, '5% of gain' as share 0.05. Raises ValueError."""
    if match := re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*%\s*of\s*gain\s*", text):
        return Margin(share_of_gain=float(match[1]) / 100)
    if match := re.fullmatch(r"\s*((?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)\s*(pp)?\s*", text):
        return Margin(absolute=float(match[1]) / (100 if match[2] else 1))
    raise ValueError(f"margin '{text:.40}' is not valid. Write '0.02' (in units of the metric), '1pp' or '5% of gain'.")


def _margin_text(value: object) -> object:
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if isinstance(text, str):
        parse_margin(text)
    return text


MarginText = Annotated[str, BeforeValidator(_margin_text)]  # what `parse_margin` reads; a number is its own text


BUDGET_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


def parse_budget(text: str) -> float:
    """Read '2h' as 7200.0 seconds; also '90min', '45s', '1.5h', '1d'. Raises ValueError."""
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(s|min|m|h|d)\s*", text)
    if not match or float(match[1]) == 0 or math.isinf(float(match[1])):
        raise ValueError(f"budget '{text:.40}' is not valid. Write a time above 0, such as '2h', '90min' or '45s'.")
    return float(match[1]) * BUDGET_SECONDS[match[2]]


# --- money


def check_currency(text: str) -> str:
    """`text`, if it is 1 to 8 letters or currency signs. Raises ValueError."""
    kinds = {unicodedata.category(letter) for letter in text}
    if not 1 <= len(text) <= 8 or not kinds <= {"Lu", "Ll", "Lo", "Sc"}:
        raise ValueError(f"must be 1 to 8 letters or a currency sign, such as EUR or €, but got {text!r:.40}")
    return text


Currency = Annotated[str, AfterValidator(check_currency)]
# at most a million: a mistyped price is refused, and no cost overflows
HourlyPrice = Annotated[float, Field(gt=0, le=1_000_000)]


class Price(Frozen):
    """Price of one hour of what makes a run: a GPU, or a whole machine with one worker. Always the user's own."""

    per_hour: HourlyPrice
    currency: Currency | None = None  # None: not given

    def cost(self, seconds: float | None) -> float | None:
        """Cost of this time, in the currency; None: the time is not known."""
        return None if seconds is None else self.per_hour * seconds / 3600


MAX_WORKERS = 4096


def check_workers(value: object) -> object:
    """`value`, if it is a number of workers or 'auto'. Raises ValueError, with one message for both kinds."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_WORKERS
    if value != "auto" and not is_number:
        raise ValueError(f"must be a whole number from 1 to {MAX_WORKERS:,}, or auto, but got {value!r:.40}")
    return value


Workers = Annotated[Annotated[int, Field(ge=1, le=MAX_WORKERS)] | Literal["auto"], BeforeValidator(check_workers)]
