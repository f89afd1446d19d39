"""What to do: a study as its author writes it, and the frozen specification of one run.

Nothing here imports torch. Every default of the product lives here, or in the specs that this file hands on.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tunewise.spec.data import DataSpec
from tunewise.spec.frozen import Frozen, canonical_json
from tunewise.spec.methods import (
    ArmMethod,
    ExistingMethod,
    LoraMethod,
    Method,
    TrainedArm,
    TrainedMethod,
)
from tunewise.spec.metrics import MetricSpec, SamplesSpec
from tunewise.spec.quantities import DEFAULT_MARGINS, Margin, parse_budget, parse_margin
from tunewise.spec.tasks import TASKS, Task
from tunewise.spec.train import TrainSpec
from tunewise.spec.words import Attention, CostName, Device, Precision, Source
from tunewise.text.suggest import near_miss

# --- the sections of a study ----------------------------------------------------------------------


MIN_SHORT_RATES = 7  # below it, short trials and three in full cost about as much as every rate in full


class TuningSpec(Frozen):
    """The same search for every arm: rates around the centre, extended while the best is at an edge, then refined."""

    rates: int = Field(3, ge=1, description="learning rates to begin with")
    # at least 1.1, because rates are rounded to 3 digits and must stay apart
    spacing: float = Field(3.0, ge=1.1, description="factor between neighbours")
    cap: int = Field(7, ge=1, description="full-length trials per arm at most")
    seeds: int = Field(1, ge=1, le=4, description="runs of every trial, with seeds of the search; their mean decides")
    half_steps: bool = Field(True, description="then the two rates half a step beside the best, as the cap allows")
    search: Literal["full-length", "short"] = Field(
        "full-length",
        description="short: every rate on 15 % of the steps, then the best and its neighbours in full",
    )

    @model_validator(mode="after")
    def _cap_covers_grid(self) -> Self:
        if self.search == "short" and self.rates < MIN_SHORT_RATES:
            raise ValueError(
                f"tuning.search: short pays from {MIN_SHORT_RATES} rates on, but tuning.rates is {self.rates}. "
                f"Set tuning.rates to {MIN_SHORT_RATES}, or leave tuning.search out"
            )
        in_full = 3 if self.search == "short" else self.rates  # the best of the short trials and its neighbours
        if self.cap < in_full:
            name = "3 with tuning.search: short" if self.search == "short" else "tuning.rates"
            raise ValueError(f"tuning.cap must be at least {name}, but got {self.cap} < {in_full}")
        return self


def text_alone(value: object) -> object:
    """`forgetting: FILE` for `forgetting: {text: FILE}`."""
    return {"text": value} if isinstance(value, str) else value


class ForgettingSpec(Frozen):
    """General text on which tuned models are compared with the base (causal language models only)."""

    text: Source = Field("builtin:pydoc-topics", description="a text file, or builtin:pydoc-topics")
    tokens: int = Field(20_000, ge=0, description="0: not measured")
    points: int = Field(
        10, ge=0, description="measurements during every confirmed run, evenly spaced; 0: at its end only"
    )


class MachineSpec(Frozen):
    """Where and in which precision to run; None: found out once and written into every run."""

    device: Device | None = None
    precision: Precision | None = None
    threads: int | None = Field(None, ge=1)
    attention: Attention | None = Field(
        None,
        description="transformers' kernel; None: the fastest for the shape that computes what the model's own does",
    )
    checkpoint_seconds: float = Field(300, ge=0, description="between checkpoints inside a run; 0: after every step")
    run_limit_seconds: float | None = Field(
        None, gt=0, description="a run that takes longer is timed-out, and the study goes on without it; None: no limit"
    )


STUDY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ARM_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"  # no dot: in `--set arms.NAME.rank=4` it separates keys
MAX_SEEDS = 999


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


class StudySpec(Frozen):
    """One question: a base model, data, arms, a protocol."""

    name: str = Field(pattern=STUDY_NAME)
    model: Source = Field("tiny", min_length=1, description="a bundled name, a folder, or a hub id")
    trust_remote_code: bool = False
    task: Task | None = Field(None, description="None: told by the columns of the data")
    data: DataSpec
    arms: dict[str, ArmMethod] = Field(min_length=1)
    train: TrainSpec = TrainSpec()
    tuning: TuningSpec = TuningSpec()
    looks: tuple[Annotated[int, Field(ge=1, le=MAX_SEEDS)], ...] = Field(
        (5, 10),
        min_length=1,
        max_length=2,
        description="seeds at which the verdict is read; at a second look that of the arms undecided at the first",
    )
    seed: int = Field(0, ge=0, le=1_000_000, description="other numbers give other search and confirmation seeds")
    checkpoint: Literal["best", "last"] = "best"
    margin: str | None = Field(None, description="'0.02' (in the metric), '1pp', or '5% of gain'; None: by metric")
    forgetting: Annotated[ForgettingSpec, BeforeValidator(text_alone, json_schema_input_type=ForgettingSpec | str)] = (
        ForgettingSpec()
    )
    samples: SamplesSpec = SamplesSpec()
    metrics: tuple[MetricSpec, ...] = Field((), description="of written text (sft), beside those that every study has")
    primary: str | None = Field(
        None,
        description="the metric of margin and verdict; None: nll, or accuracy of classes; rates are chosen by these",
    )
    cost: CostName = Field("trainable_parameters", description="by which the cheapest arm that is good is recommended")
    machine: MachineSpec = MachineSpec()
    keep: Literal["best", "all", "none"] = Field("best", description="which tuned weights stay on disk")
    accept_stale: bool = Field(
        False,
        description="also take runs made with another base, libraries, threads or numerics; the report says which",
    )
    budget: str | None = Field(None, description="'2h', '90min': caps and looks shrink for all arms alike to fit")

    @field_validator("budget")
    @classmethod
    def _budget_text(cls, value: str | None) -> str | None:
        if value is not None:
            parse_budget(value)
        return value

    @model_validator(mode="after")
    def _budget_has_full_trials(self) -> Self:
        if self.budget and self.tuning.search == "short":
            raise ValueError(
                "budget: needs tuning.search: full-length, because it reckons with the time of a full trial"
            )
        return self

    @field_validator("arms")
    @classmethod
    def _arm_names(cls, arms: dict[str, Any]) -> dict[str, Any]:
        for name in arms:
            if not re.fullmatch(ARM_NAME, name) or name == "base":
                raise ValueError(f"arm name '{name}' is not allowed: letters, digits, '_', '-', and not 'base'")
        seen: dict[str, str] = {}
        for name, arm in arms.items():
            content = same_arm(arm)
            if content in seen:
                raise ValueError(f"arms '{seen[content]}' and '{name}' are the same: remove one.")
            seen[content] = name
        return arms

    @field_validator("looks")
    @classmethod
    def _rising_looks(cls, looks: tuple[int, ...]) -> tuple[int, ...]:
        if looks != tuple(sorted(set(looks))):
            raise ValueError(f"looks must rise, such as [5, 10], but got {list(looks)}")
        return looks

    @field_validator("margin", mode="before")
    @classmethod
    def _margin_text(cls, value: object) -> object:
        text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        if isinstance(text, str):
            parse_margin(text)
        return text

    @field_validator("metrics")
    @classmethod
    def _each_metric_once(cls, metrics: tuple[MetricSpec, ...]) -> tuple[MetricSpec, ...]:
        names = [metric.name for metric in metrics]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"'{twice[0]}' is named twice: keep one")
        return metrics

    @model_validator(mode="after")
    def _primary_can_be_judged(self) -> Self:
        check_primary(self.primary, self.metrics, self.margin)
        return self

    @property
    def trained_arms(self) -> dict[str, TrainedArm]:
        """The arms that the study trains, by name; those that were trained elsewhere are left out."""
        return {name: method for name, method in self.arms.items() if isinstance(method, TrainedMethod)}

    @property
    def lora_arms(self) -> dict[str, LoraMethod]:
        """The LoRA arms by name."""
        return {name: method for name, method in self.arms.items() if isinstance(method, LoraMethod)}

    @property
    def existing_arms(self) -> dict[str, ExistingMethod]:
        """The arms that were trained elsewhere, by name."""
        return {name: method for name, method in self.arms.items() if isinstance(method, ExistingMethod)}

    @property
    def full_arm(self) -> str | None:
        """The arm that the others are compared with; None where there is none."""
        return next((name for name, method in self.arms.items() if method.method == "full"), None)

    @property
    def head_arm(self) -> str | None:
        """The arm that trains the classification head alone; None where there is none."""
        return next((name for name, method in self.arms.items() if method.method == "head"), None)

    @property
    def reference_arm(self) -> str:
        """The arm over which gain is measured: the base, or for classification the head alone."""
        return (self.head_arm if self.task and TASKS[self.task].has_classes else None) or "base"

    def margin_in(self, metric: str) -> Margin:
        """The margin of a verdict on `metric`: the declared one, else the default of that metric.

        Raises KeyError where none is declared and the metric has no default, which `check_primary` rules out.
        """
        return parse_margin(self.margin) if self.margin else DEFAULT_MARGINS[metric]

    def search_seeds(self) -> tuple[int, ...]:
        """The seeds of every learning-rate trial: no confirmation seeds of any `seed`, nor shared by two of them."""
        # divisible by 1000, which no confirmation seed is, and below 2^32, which numpy's seeds must be
        return tuple(1_000_000 + 1000 * self.seed + 1_000_001_000 * i for i in range(self.tuning.seeds))

    def confirmation_seeds(self) -> tuple[int, ...]:
        """Fresh seeds, the same in every arm; disjoint for different `seed`."""
        return tuple(1000 * self.seed + i + 1 for i in range(self.looks[-1]))


def same_arm(method: Method) -> str:
    """A text that is equal for methods that are one arm: where its rate is searched makes no other arm."""
    return canonical_json(method.model_dump(mode="json", exclude={"learning_rate", "rates"}))


# --- one run -------------------------------------------------------------------------------------
