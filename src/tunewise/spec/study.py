"""A study as its author writes it.

Nothing here imports torch. Every default of the product is defined here or in the specs that this file uses.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tunewise.spec.data import LOOKS_OF_SETS, MAX_SEED, MAX_SETS, DataSpec, StudyData, check_sets, separated
from tunewise.spec.frozen import Frozen, canonical_json
from tunewise.spec.methods import ArmMethod, ExistingMethod, LoraMethod, Method, TrainedArm, TrainedMethod
from tunewise.spec.metrics import (
    ForgettingSpec,
    MetricSpec,
    SamplesSpec,
    SecondarySpec,
    check_primary,
    check_secondary,
    check_selection,
    text_alone,
)
from tunewise.spec.quantities import DEFAULT_MARGINS, Margin, MarginText, parse_budget, parse_margin
from tunewise.spec.tasks import TASKS, Task
from tunewise.spec.train import MachineSpec, TrainSpec, TuningSpec
from tunewise.spec.words import BASES, CostName, Quantization, Source

# --- the sections of a study ----------------------------------------------------------------------


STUDY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ARM_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"  # no dot: in `--set arms.NAME.rank=4` it separates keys
MAX_SEEDS = 999


Protocol = Literal["adaptive", "fixed"]
DEFAULT_LOOKS: Mapping[str, tuple[int, ...]] = {"adaptive": (3, 5, 10), "fixed": (5, 10)}


class StudySpec(Frozen):
    """One question: a base model, data, arms and a protocol."""

    name: str = Field(pattern=STUDY_NAME)
    model: Source = Field("tiny", min_length=1, description="base model: tiny (bundled), a folder, or a hub id")
    trust_remote_code: bool = False
    task: Task | None = Field(None, description="task; None: from the columns of the data")
    data: StudyData
    sets: dict[str, DataSpec] = Field(
        {}, description="several datasets, written as `data.sets`: each is a study, and one verdict is on their mean"
    )
    arms: dict[str, ArmMethod] = Field(min_length=1)
    train: TrainSpec = TrainSpec()
    tuning: TuningSpec = TuningSpec()
    protocol: Protocol = Field(
        "adaptive",
        description="adaptive: an arm that the last look would hardly decide ends at an interim look; "
        "fixed: looks 5 and 10 by default, and every inconclusive arm goes on",
    )
    looks: tuple[Annotated[int, Field(ge=1, le=MAX_SEEDS)], ...] = Field(
        DEFAULT_LOOKS["adaptive"],
        min_length=1,
        max_length=5,
        description="numbers of seeds at which the verdict is read; a later look covers arms inconclusive at the "
        "one before",
    )
    studies_per_test_set: int = Field(
        1, ge=1, le=1000, description="studies planned on this test set; the error of every verdict is divided by it"
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="another number gives other search and confirmation seeds")
    checkpoint: Literal["best", "last"] = "best"
    margin: MarginText | None = Field(
        None,
        description="acceptable quality loss: '0.02' (in units of the metric), '1pp', or '5% of gain'; None: by metric",
    )
    forgetting: Annotated[ForgettingSpec, BeforeValidator(text_alone, json_schema_input_type=ForgettingSpec | str)] = (
        ForgettingSpec()
    )
    samples: SamplesSpec = SamplesSpec()
    metrics: tuple[MetricSpec, ...] = Field((), description="additional metrics of written text (sft)")
    primary: str | None = Field(
        None,
        description="metric of margin and verdict; None: nll (classification: accuracy), which also "
        "choose the learning rate",
    )
    secondary: SecondarySpec | None = Field(
        None, description="a second metric of every verdict, with its own margin; it shares the error of the first"
    )
    select_by: Literal["primary"] | None = Field(
        None,
        description="primary: the primary metric, a share of texts written for the validation set, chooses learning "
        "rates and checkpoints; None: nll (classification: accuracy) does",
    )
    cost: CostName = Field(
        "trainable_parameters", description="cost by which the cheapest acceptable arm is recommended"
    )
    machine: MachineSpec = MachineSpec()
    keep: Literal["best", "all", "none"] = Field("best", description="tuned weights that stay on disk")
    accept_stale: bool = Field(
        False,
        description="also use runs of another base, threads, library versions or numerics; the report lists them",
    )
    budget: str | None = Field(
        None,
        description="limit of machine time, summed over workers, such as '2h' or '90min': reduces learning-rate trials "
        "and seeds equally for all arms",
    )

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
                "budget: needs tuning.search: full-length, because it is computed from the time of a full trial"
            )
        return self

    @field_validator("arms")
    @classmethod
    def _arm_names(cls, arms: dict[str, Any]) -> dict[str, Any]:
        for name in arms:
            require_name("arm", name)
        seen: dict[str, str] = {}
        for name, arm in arms.items():
            content = same_arm(arm)
            if content in seen:
                raise ValueError(f"arms '{seen[content]}' and '{name}' are the same. Remove one.")
            seen[content] = name
        return arms

    @model_validator(mode="before")
    @classmethod
    def _sets_in_data(cls, content: object) -> object:
        data = content.get("data") if isinstance(content, dict) else None
        if not isinstance(content, dict) or not isinstance(data, dict) or "sets" not in data:
            return content
        return {"looks": LOOKS_OF_SETS, **content, **separated(data)}

    @model_validator(mode="after")
    def _sets_are_studies(self) -> Self:
        if self.sets:
            check_sets(self.sets, self.looks, self.seed)
        for name in self.sets:
            require_name("set", name)
        if self.sets and (self.budget or self.existing_arms):
            raise ValueError("data.sets: not with budget or existing arms, which would differ between sets")
        return self

    @model_validator(mode="before")
    @classmethod
    def _looks_of_protocol(cls, content: object) -> object:
        if isinstance(content, dict) and content.get("protocol") == "fixed" and "looks" not in content:
            return {**content, "looks": DEFAULT_LOOKS["fixed"]}
        return content

    @field_validator("looks")
    @classmethod
    def _rising_looks(cls, looks: tuple[int, ...]) -> tuple[int, ...]:
        if looks != tuple(sorted(set(looks))):
            raise ValueError(f"looks must increase, such as [3, 5, 10], but got {list(looks)}")
        return looks

    @field_validator("metrics")
    @classmethod
    def _each_metric_once(cls, metrics: tuple[MetricSpec, ...]) -> tuple[MetricSpec, ...]:
        names = [metric.name for metric in metrics]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"'{twice[0]}' is named twice. Keep one")
        return metrics

    @model_validator(mode="after")
    def _metrics_can_be_judged(self) -> Self:
        check_primary(self.primary, self.metrics, self.margin)
        if self.secondary is not None:
            check_secondary(self.secondary, self.primary, self.metrics)
        if self.select_by:
            check_selection(self.primary, self.metrics)
        return self

    @model_validator(mode="after")
    def _extracts_on_one_split(self) -> Self:
        extracting = [name for name, arm in self.arms.items() if getattr(arm, "extract", None)]
        if self.data.resample and extracting:
            raise ValueError(
                f"arms.{extracting[0]}.extract compares runs on one validation set, but with data.resample every seed "
                "has its own. Remove one of the two"
            )
        return self

    @model_validator(mode="after")
    def _a_folder_for_every_seed(self) -> Self:
        for name, arm in self.existing_arms.items():
            if arm.paths and (folders := len(arm.paths)) < self.looks[-1]:
                raise ValueError(
                    f"arms.{name}.paths: {folders} folders for the {self.looks[-1]} seeds of the last look. Write "
                    f"looks: [{folders}], or name a folder for every seed"
                )
        return self

    def of_set(self, name: str) -> Self:
        """The study of one set. Its seeds differ from those of the other sets, so that sets are independent."""
        place = list(self.sets).index(name)
        own = {"name": f"{self.name}-{name}"[:64], "data": self.sets[name].model_dump(), "sets": {}}
        return self.replace(**own, seed=MAX_SETS * self.seed + place)

    @property
    def trained_arms(self) -> dict[str, TrainedArm]:
        """Arms that the study trains, by name, without those that were trained elsewhere."""
        return {name: method for name, method in self.arms.items() if isinstance(method, TrainedMethod)}

    @property
    def lora_arms(self) -> dict[str, LoraMethod]:
        """LoRA arms by name."""
        return {name: method for name, method in self.arms.items() if isinstance(method, LoraMethod)}

    @property
    def existing_arms(self) -> dict[str, ExistingMethod]:
        """Arms trained elsewhere, by name."""
        return {name: method for name, method in self.arms.items() if isinstance(method, ExistingMethod)}

    @property
    def bases(self) -> tuple[Quantization | None, ...]:
        """How the bases of the arms are stored: whole first, then the other ways, each once."""
        return (None, *dict.fromkeys(arm.quantized for arm in self.arms.values() if arm.quantized))

    @property
    def full_arm(self) -> str | None:
        """Name of the arm that the others are compared with; None if there is none."""
        return next((name for name, method in self.arms.items() if method.method == "full"), None)

    @property
    def head_arm(self) -> str | None:
        """Name of the arm that trains only the classification head; None if there is none."""
        return next((name for name, method in self.arms.items() if method.method == "head"), None)

    @property
    def reference_arm(self) -> str:
        """Name of the arm over which gain is measured: the base, or for classification the head alone."""
        return (self.head_arm if self.task and TASKS[self.task].has_classes else None) or "base"

    @property
    def selecting_metric(self) -> MetricSpec | None:
        """Metric of written texts that chooses learning rates and checkpoints; None: the task's own does."""
        return next((metric for metric in self.metrics if self.select_by and metric.name == self.primary), None)

    @property
    def compared_arms(self) -> tuple[str, ...]:
        """The arms in question: all except full, and except the reference of gain unless it is the only one."""
        others = tuple(name for name in self.arms if name != self.full_arm)
        return tuple(name for name in others if name != self.reference_arm) or others

    @property
    def num_comparisons(self) -> int:
        """Comparisons that share the error of one verdict: arms by metrics, times the studies on the test set."""
        return len(self.compared_arms) * (1 if self.secondary is None else 2) * self.studies_per_test_set

    def margin_in(self, metric: str) -> Margin:
        """Margin of a verdict on `metric`: the one declared for it, else the default of that metric.

        Raises KeyError if none is declared and the metric has no default, which `check_primary` rules out.
        """
        if self.secondary is not None and metric == self.secondary.metric:
            return parse_margin(self.secondary.margin)
        return parse_margin(self.margin) if self.margin else DEFAULT_MARGINS[metric]

    def search_seeds(self) -> tuple[int, ...]:
        """Seeds of every learning-rate trial, distinct from the confirmation seeds and search seeds of every `seed`."""
        # divisible by 1000, as no confirmation seed is, and below 2^32, numpy's limit
        return tuple(1_000_000 + 1000 * self.seed + 1_000_001_000 * i for i in range(self.tuning.seeds))

    def confirmation_seeds(self) -> tuple[int, ...]:
        """Confirmation seeds, the same in every arm; disjoint for different `seed`."""
        return tuple(1000 * self.seed + i + 1 for i in range(self.looks[-1]))


def require_name(kind: str, name: str) -> None:
    """Raise ValueError if an arm or a set may not have this name."""
    if not re.fullmatch(ARM_NAME, name) or name in BASES.values():
        raise ValueError(f"{kind} name '{name}' is not allowed: use letters, digits, '_' and '-', and not 'base'")


def same_arm(method: Method) -> str:
    """Text that is equal for methods that make the same arm, whatever the place of their learning-rate search."""
    return canonical_json(method.model_dump(mode="json", exclude={"learning_rate", "rates"}))
