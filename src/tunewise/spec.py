"""What to do: a study as its author writes it, and the frozen specification of one run.

Nothing here imports torch. Every default of the product lives here, or in the specs that this file hands on.
"""

import hashlib
import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tunewise.method_spec import METHOD_SPECS as METHOD_SPECS
from tunewise.method_spec import ArmMethod
from tunewise.method_spec import BaseMethod as BaseMethod
from tunewise.method_spec import ExistingMethod as ExistingMethod
from tunewise.method_spec import FullMethod as FullMethod
from tunewise.method_spec import HeadMethod as HeadMethod
from tunewise.method_spec import LoraMethod as LoraMethod
from tunewise.method_spec import Method as Method
from tunewise.method_spec import PeftMethod as PeftMethod
from tunewise.method_spec import TrainedArm as TrainedArm
from tunewise.method_spec import TrainedMethod as TrainedMethod
from tunewise.metric_spec import MetricSpec as MetricSpec
from tunewise.metric_spec import check_primary
from tunewise.quantities import DEFAULT_MARGINS as DEFAULT_MARGINS
from tunewise.quantities import Frozen as Frozen
from tunewise.quantities import Margin as Margin
from tunewise.quantities import Source as Source
from tunewise.quantities import parse_budget as parse_budget
from tunewise.quantities import parse_margin as parse_margin
from tunewise.task_spec import TASKS as TASKS
from tunewise.task_spec import Task as Task
from tunewise.text.suggest import near_miss
from tunewise.train_spec import TrainSpec as TrainSpec

Split = Literal["train", "valid", "test"]
# What the splits of a data set are called, in files and on the hub; the first that is there counts.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "validation", "val", "dev", "eval"),
    "test": ("test",),
}
NO_DATA = "builtin:none"  # a study that can only be planned
Role = Literal["base", "short", "tune", "confirm"]  # short: a trial on a part of the steps
Precision = Literal["bf16", "fp32"]
Device = Literal["cpu", "cuda", "mps"]
Attention = Literal["eager", "sdpa"]
CostName = Literal["trainable_parameters", "train_seconds", "peak_memory_bytes", "saved_bytes"]

# Raised whenever the loop's or the scores' results change, so that no old record is mixed with new ones.
NUMERICS = 7


# --- the sections of a study ----------------------------------------------------------------------


class Limits(Frozen):
    """At most this many rows of each split, drawn evenly over the file; None: all."""

    train: int | None = Field(None, ge=1)
    valid: int | None = Field(None, ge=1)
    test: int | None = Field(None, ge=1)


class SplitShares(Frozen):
    """Shares of the units that become valid and test where the data has no such file."""

    valid: float = Field(0.1, gt=0, lt=0.5)
    test: float = Field(0.1, gt=0, lt=0.5)


# What data.columns may name: columns, and `role` and `content` inside the turns of `messages`.
COLUMNS = ("prompt", "completion", "references", "messages", "role", "content", "tools", "text", "label")
CHAT_ROLES = ("user", "assistant", "system", "tool")


class DataSpec(Frozen):
    """Where the examples are and how they become text.

    A source is a file (jsonl, json, csv, tsv, parquet, arrow, txt, or gz of one), a folder of such files, a hub id of
    `datasets` (`owner/name` or `owner/name:configuration`), or `builtin:stdlib`.
    """

    train: Source
    valid: Source | None = None
    test: Source | None = None
    columns: dict[str, str | dict[str, str]] = Field(
        {},
        description="our name -> the file's: {prompt: question, completion: answer}; of one split alone: "
        "{test: {prompt: text}}",
    )
    roles: dict[str, str] = Field(
        {}, description="who speaks in turns, our name -> the file's: {user: USER, assistant: SYSTEM}"
    )
    delimiter: str | None = Field(
        None, description="between the cells of a csv or tsv file, such as ';' or tab; None: told by suffix and header"
    )
    template: str = Field("{prompt}", description="the prompt, from the row's columns")
    separator: str = Field("\n", description="between prompt and completion; not trained on")
    chat_template: Source | None = Field(
        None, description="a Jinja file, or the name of one of the tokenizer's templates; None: its default"
    )
    document_separator: str = Field("\n\n\n", min_length=1, description="between documents of a txt file")
    group: str | None = Field(None, description="column whose equal values are not independent (the unit)")
    split: SplitShares = SplitShares()
    limit: Limits = Limits()
    max_length: int = Field(512, ge=8, description="tokens; longer examples are cut, and counted")
    max_truncated: float = Field(0.05, ge=0, le=1, description="share of rows that may be cut before it is an error")
    duplicates: Literal["drop", "error", "keep"] = "drop"

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str | dict[str, str]]) -> dict[str, str | dict[str, str]]:
        for name, column in columns.items():
            if isinstance(column, dict):
                if name not in SPLIT_NAMES:
                    raise ValueError(
                        f"'{name}' holds columns of its own, but is no split.{near_miss(name, SPLIT_NAMES)} "
                        f"Splits: {', '.join(SPLIT_NAMES)}."
                    )
                cls._known_columns(dict(column))
            elif name not in COLUMNS:
                raise ValueError(f"unknown column '{name}'.{near_miss(name, COLUMNS)} Known: {', '.join(COLUMNS)}.")
        return columns

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, roles: dict[str, str]) -> dict[str, str]:
        for name in roles:
            if name not in CHAT_ROLES:
                raise ValueError(f"unknown role '{name}'.{near_miss(name, CHAT_ROLES)} Known: {', '.join(CHAT_ROLES)}.")
        if twice := [theirs for theirs in roles.values() if [*roles.values()].count(theirs) > 1]:
            raise ValueError(f"'{twice[0]}' stands for two roles, and can be one alone")
        return roles

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, delimiter: str | None) -> str | None:
        delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter)
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
            raise ValueError(f"must be one character such as ';' or '|', or tab, but got {delimiter!r:.40}")
        return delimiter

    def columns_of(self, split: Split) -> dict[str, str]:
        """Our name -> the file's, for the rows of one split."""
        own = self.columns.get(split)
        shared = {name: column for name, column in self.columns.items() if isinstance(column, str)}
        return {**shared, **own} if isinstance(own, dict) else shared

    def of_split(self, split: Split) -> Self:
        """The same with the columns of one split alone."""
        return self.model_copy(update={"columns": self.columns_of(split)})


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


class ForgettingSpec(Frozen):
    """General text on which tuned models are compared with the base (causal language models only)."""

    text: Source = Field("builtin:pydoc-topics", description="a text file, or builtin:pydoc-topics")
    tokens: int = Field(20_000, ge=0, description="0: not measured")
    points: int = Field(
        10, ge=0, description="measurements during every confirmed run, evenly spaced; 0: at its end only"
    )


def _text_alone(value: object) -> object:
    """`forgetting: FILE` for `forgetting: {text: FILE}`."""
    return {"text": value} if isinstance(value, str) else value


class SamplesSpec(Frozen):
    """Outputs of base and arms shown side by side (greedy decoding)."""

    count: int = Field(4, ge=0)
    max_new_tokens: int = Field(64, ge=1)


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
    forgetting: Annotated[ForgettingSpec, BeforeValidator(_text_alone, json_schema_input_type=ForgettingSpec | str)] = (
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
        description="also take runs made with another base, other library versions or numerics; the report says which",
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


class Inputs(Frozen):
    """SHA-256 fingerprints of everything a run reads, and the versions that decide its numbers."""

    base: str
    tokenizer: str
    data: str
    general: str | None  # None: forgetting is not measured
    existing: str | None  # of the weights an `existing` arm brings
    versions: dict[str, str]  # minor versions of torch, transformers, peft


def forgetting_steps(points: int, num_steps: int) -> frozenset[int]:
    """The steps of a run at which forgetting is measured: 0, the last one, and evenly between; of 0 points none."""
    return frozenset(round(num_steps * i / points) for i in range(points + 1)) if points else frozenset()


class RunSpec(Frozen):
    """One training of one arm at one learning rate with one seed (or one scoring, for base and existing)."""

    arm: str
    role: Role
    model: str
    trust_remote_code: bool
    task: Task
    method: Method
    train: TrainSpec
    learning_rate: float | None  # None: nothing is trained
    head_learning_rate: float | None  # None: no new weights, or nothing is trained
    seed: int
    checkpoint: Literal["best", "last"]
    score_splits: tuple[Split, ...]
    ranks: tuple[int, ...] = ()  # truncations of the trained adapter to these ranks are scored on valid, too
    samples: SamplesSpec
    metrics: tuple[MetricSpec, ...] = ()
    forgetting_points: int  # measurements of valid and general text during training; 0: none
    device: Device
    precision: Precision
    threads: int
    attention: Attention | None = None
    inputs: Inputs
    numerics: int = NUMERICS

    @property
    def run_id(self) -> str:
        """16 hex digits: a hash of everything that can change the result (so not of names, and not of paths)."""
        content = self.model_dump(mode="json", exclude={"arm", "role", "model"})
        for name in ("learning_rate", "rates"):  # only where to search; the rate itself is hashed
            content["method"].pop(name, None)
        content["method"].pop("path", None)  # its contents are in inputs.existing
        for name in ("max_rank", "extract"):  # fields of later versions, as if they were not there
            if not content["method"].get(name):
                content["method"].pop(name, None)
        if content["method"].get("init_scale") == 1:
            del content["method"]["init_scale"]
        if not self.ranks:
            del content["ranks"]
        content["train"].pop("head_learning_rate", None)
        content["train"]["evaluations"] = self.train.num_evaluations
        for metric in content["metrics"]:
            if metric["kind"] is None:  # as a metric was written before it could have a name of its own
                metric.pop("kind")
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]


def canonical_json(value: object) -> str:
    """The one text form of plain data that hashes are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
