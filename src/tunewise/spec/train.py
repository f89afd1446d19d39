"""Training of a study: batches, schedule, optimizer, the same for every arm; and the machines that make the runs."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from tunewise.spec.frozen import Frozen
from tunewise.spec.quantities import Currency, HourlyPrice, Price, Workers
from tunewise.spec.words import Attention, Device, ExecutorName, Precision, Scoring

Share = Annotated[float, Field(ge=0, lt=1)]


class TrainSpec(Frozen):
    """Training options, the same for every arm: batches, schedule, optimizer (AdamW, Loshchilov & Hutter 2019)."""

    epochs: int = Field(2, ge=1)
    max_steps: int | None = Field(None, ge=1, description="optimizer steps of a run; overrides epochs")
    batch_size: int = Field(
        16, ge=1, le=100_000, description="examples per optimizer step, however it is split into micro-batches"
    )
    micro_batch_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        2048,
        description="most tokens of a micro-batch, padding included; auto: as many as fit in memory by the plan",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations for the gradient instead of storing them: less memory, more time"
    )
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = Field(
        0.05, ge=0, lt=1, description="share of the steps with a rising learning rate; the first step's rate is above 0"
    )
    weight_decay: float = Field(0.01, ge=0, description="decay of matrices; never of biases and norms")
    betas: tuple[Share, Share] = (0.9, 0.999)
    epsilon: float = Field(1e-8, gt=0)
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    evaluations: int = Field(
        4,
        ge=1,
        description="evaluations on the validation set, evenly spaced, the last at the end; at least one per epoch",
    )
    head_learning_rate: float | None = Field(
        None, gt=0, description="learning rate of new weights; None: tuned on the head arm"
    )

    @field_validator("micro_batch_tokens", mode="before")
    @classmethod
    def _a_number_or_auto(cls, tokens: object) -> object:
        is_number = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 1
        if not is_number and tokens != "auto":
            raise ValueError(f"must be a whole number of at least 1, or auto, but got {tokens!r}")
        return tokens

    @property
    def tokens_at_once(self) -> int:
        """Tokens of a micro-batch; only for a study in which `auto` is resolved."""
        assert self.micro_batch_tokens != "auto", "resolved before anything is planned or trained"
        return self.micro_batch_tokens

    @property
    def num_evaluations(self) -> int:
        """Number of evaluations of a run, at least one per epoch: the verdict depends on one checkpoint."""
        return max(self.evaluations, 1 if self.max_steps else self.epochs)

    def evaluation_steps(self, num_steps: int) -> frozenset[int]:
        """Optimizer steps after which the validation set is evaluated."""
        return frozenset(round(num_steps * (i + 1) / self.num_evaluations) for i in range(self.num_evaluations))

    def num_steps(self, num_rows: int) -> int:
        """Optimizer steps of a run on `num_rows` training examples."""
        return self.max_steps or self.steps_per_epoch(num_rows) * self.epochs

    def steps_per_epoch(self, num_rows: int) -> int:
        """Optimizer steps over `num_rows` training examples; the last one may be smaller."""
        return math.ceil(num_rows / self.batch_size)


MIN_SHORT_RATES = 7  # below it, short trials and three full-length ones cost about as much as every rate at full length


class TuningSpec(Frozen):
    """Learning-rate search, the same for every arm.

    Rates around a center are tried, extended while the best is at an edge, then refined.
    """

    rates: int = Field(3, ge=1, description="learning rates tried first")
    # at least 1.1: rates are rounded to 3 digits and must stay distinct
    spacing: float = Field(3.0, ge=1.1, description="factor between neighboring learning rates")
    cap: int = Field(7, ge=1, description="most full-length trials per arm")
    seeds: int = Field(1, ge=1, le=4, description="seeds of every trial; their mean decides")
    half_steps: bool = Field(
        True, description="try the two rates half a step from the best one where the curve differs from a parabola"
    )
    search: Literal["full-length", "short"] = Field(
        "full-length",
        description="short: every rate on 15% of the steps, then the best and its neighbors at full length",
    )

    @model_validator(mode="after")
    def _cap_covers_grid(self) -> Self:
        if self.search == "short" and self.rates < MIN_SHORT_RATES:
            raise ValueError(
                f"tuning.search: short needs at least {MIN_SHORT_RATES} rates to save time, but "
                f"tuning.rates is {self.rates}. "
                f"Set tuning.rates to {MIN_SHORT_RATES}, or remove tuning.search"
            )
        in_full = 3 if self.search == "short" else self.rates  # the best of the short trials and its neighbors
        if self.cap < in_full:
            name = "3 with tuning.search: short" if self.search == "short" else "tuning.rates"
            raise ValueError(f"tuning.cap must be at least {name}, but got {self.cap} < {in_full}")
        return self


SlurmWord = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,:&|*/-]{0,99}$")]


class SlurmSpec(Frozen):
    """Options that every job of a run gets from `sbatch`."""

    partition: SlurmWord | None = Field(None, description="partition of the jobs")
    account: SlurmWord | None = Field(None, description="account that the jobs are charged to")
    qos: SlurmWord | None = Field(None, description="quality of service")
    constraint: SlurmWord | None = Field(None, description="features that a node must have, such as a100")
    time: Annotated[str, Field(pattern=r"^[0-9]+(-[0-9]+)?(:[0-9]{1,2}){0,2}$")] | None = Field(
        None, description="time limit of one job, such as 2:00:00 or 1-12"
    )
    memory: Annotated[str, Field(pattern=r"^[0-9]+[KMGT]?$")] | None = Field(
        None, description="memory of one job, such as 32G"
    )
    gpus_per_run: int = Field(0, ge=0, le=1, description="GPUs of one job; 0: it trains on the processor")


class MachineSpec(Frozen):
    """Device, precision and limits of the runs. None: determined once and stored in every run."""

    device: Device | None = None
    precision: Precision | None = None
    threads: int | None = Field(None, ge=1)
    attention: Attention | None = Field(
        None,
        description="attention kernel of transformers; None: the fastest that computes what the model's own does",
    )
    scoring: Scoring = Field(
        "exact",
        description="of confirmed runs; exact: in fp32 arithmetic; stored: in the precision of training, which takes "
        "less memory and time; the scores then include its rounding, and intervals do not count it",
    )
    checkpoint_seconds: float = Field(
        300, ge=0, description="seconds between checkpoints inside a run; 0: after every step"
    )
    run_limit_seconds: float | None = Field(
        None,
        gt=0,
        description="longest run in seconds; a longer one is timed-out and the study continues "
        "without it; None: no limit",
    )
    executor: ExecutorName = Field(
        "local", description="who makes the runs: this machine, the machines of a Ray cluster, or jobs of Slurm"
    )
    slurm: SlurmSpec | None = Field(None, description="options of the jobs, for executor: slurm")
    workers: Workers = Field(
        1,
        description="runs made at the same time: one per GPU, or as many as the cores have room for; auto: one for "
        "every GPU",
    )
    devices_per_run: int = Field(
        1,
        ge=1,
        description="devices that make one run together, each with a part of every weight (GPUs, or processes on the "
        "CPU); part of a run's identity",
    )
    exclusive_timing: bool = Field(
        False, description="make confirmation runs, whose times are reported, one at a time, with nothing beside them"
    )
    test_set_ledger: bool = Field(
        True, description="count in your data folder which studies took verdicts from the same test set"
    )
    price_per_hour: HourlyPrice | None = Field(
        None,
        description="price of an hour of what makes a run: a GPU, or the machine with one worker; None: no cost shown",
    )
    currency: Currency | None = Field(None, description="currency of the price, such as EUR; None: bare numbers")

    @model_validator(mode="after")
    def _devices_of_one_machine(self) -> Self:
        if self.devices_per_run > 1 and self.executor != "local":
            raise ValueError(
                f"devices_per_run: {self.devices_per_run} works on this machine only, not with executor: "
                f"{self.executor}. Remove one of them"
            )
        return self

    @model_validator(mode="after")
    def _currency_of_a_price(self) -> Self:
        if self.currency and self.price_per_hour is None:
            raise ValueError(f"currency: {self.currency} has no price. Add machine.price_per_hour, or remove it")
        return self

    @property
    def price(self) -> Price | None:
        """The user's price of an hour; None: not given."""
        return None if self.price_per_hour is None else Price(per_hour=self.price_per_hour, currency=self.currency)
