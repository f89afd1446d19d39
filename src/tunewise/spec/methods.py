"""Ways to tune, as a study writes them: full fine-tuning, LoRA and its variants, the head alone, any peft method."""

import json
import math
from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tunewise.spec.frozen import Frozen
from tunewise.spec.words import Source

DEFAULT_MAX_RANK = 64
LORA_NAMES = {"plain": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA", "olora": "OLoRA"}
Rank = Annotated[int, Field(ge=1)]
Ranks = Annotated[tuple[Rank, ...], Field(min_length=1)]
HIGHEST_RANK = 65_536  # no weight matrix of these models has a higher one


class AnyMethod(Frozen):
    """What the product asks of every way to tune. A new one answers here, and nobody asks for its class."""

    is_trained: ClassVar[bool] = False

    @property
    def has_open_rank(self) -> bool:
        """True if the arm's own trials choose its rank (`rank: auto`)."""
        return False

    @property
    def has_open_targets(self) -> bool:
        """True if the arm becomes one for every placement (`targets: auto`)."""
        return False

    @property
    def truncations(self) -> tuple[int, ...]:
        """The lower ranks that the adapter of a full-length trial is cut down to and scored at."""
        return ()

    @property
    def num_truncated(self) -> int:
        """Scorings that `truncations` cost: the same rank in every module and spread, which at rank 1 are one."""
        return 2 * len(self.truncations) - (1 in self.truncations)

    @property
    def num_extracted(self) -> int:
        """Scorings of adapters that are cut out of what a confirmed run learned."""
        return 0

    def as_trained(self, *, is_confirmed: bool) -> Self:
        """The method as one run trains it: with a rank that is named, and extracting only from a confirmed run."""
        return self

    @abstractmethod
    def in_words(self) -> str:
        """The method as a reader meets it: 'LoRA r=8, alpha=32 (scale 4), qkv'."""


class TrainedMethod(AnyMethod):
    """What every trained method has in common."""

    is_trained: ClassVar[bool] = True

    learning_rate: float | None = Field(None, gt=0, description="centre of the search; None: by model and method")
    rates: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, min_length=1, description="these alone, instead of the search; always reported, and blocks a verdict"
    )


def _on_all_linear(value: object) -> object:
    """`extract: [8]` for `extract: {all-linear: [8]}`."""
    return {"all-linear": value} if isinstance(value, list | tuple) else value


class FullMethod(TrainedMethod):
    """Full fine-tuning: every parameter learns."""

    method: Literal["full"] = "full"
    extract: Annotated[
        dict[str, Ranks], BeforeValidator(_on_all_linear, json_schema_input_type=dict[str, Ranks] | Ranks)
    ] = Field(
        {},
        description="{targets: ranks}, or ranks of all-linear: what was learned, cut down to adapters of these ranks "
        "by its singular values and scored on valid: is the task of low rank?",
    )

    @field_validator("extract")
    @classmethod
    def _rising_ranks(cls, extract: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {targets: tuple(sorted(set(ranks))) for targets, ranks in extract.items()}

    @property
    def num_extracted(self) -> int:
        """Adapters of every rank, and the whole change."""
        return sum(len(ranks) + 1 for ranks in self.extract.values())

    def as_trained(self, *, is_confirmed: bool) -> Self:
        """A trial extracts nothing."""
        return self if is_confirmed else self.replace(extract={})

    def in_words(self) -> str:
        """The method as a reader meets it."""
        return "full fine-tuning"


class LoraMethod(TrainedMethod):
    """LoRA (Hu et al. 2021, arXiv 2106.09685): W + scale * B A, B and A of the given rank."""

    method: Literal["lora"] = "lora"
    rank: int | Literal["auto"] = Field(
        8, description="auto: the smallest whose truncation of an adapter of max_rank is within the margin on valid"
    )
    max_rank: int | None = Field(
        None, ge=2, le=HIGHEST_RANK, description="of rank: auto, the rank that is trained first; 64"
    )
    # With scale = alpha / rank a fixed alpha makes the best learning rate nearly independent of the rank
    # (Schulman et al. 2025, "LoRA Without Regret", which uses 32).
    alpha: float = Field(32.0, gt=0)
    init_scale: float = Field(1.0, gt=0, description="factor on the values that A begins with")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = Field(
        "all-linear", description="auto: an arm for every placement, at ranks that let all train as many parameters"
    )
    variant: Literal["plain", "rslora", "dora", "pissa", "olora"] = Field(
        "plain",
        description="rslora: scale alpha / sqrt(rank) (arXiv 2312.03732); dora: a learned magnitude per output "
        "(2402.09353); pissa, olora: B A begins as a part of the weight (2404.02948; 2406.01775)",
    )

    @field_validator("rank", mode="before")
    @classmethod
    def _rank_is_a_number_or_auto(cls, value: object) -> object:
        if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= HIGHEST_RANK):
            return value
        raise ValueError(
            f"must be a whole number of 1 or more, or auto, but got {value!r:.80}. Try 8, 16 or auto (at most "
            f"{HIGHEST_RANK:,})"
        )

    @field_validator("variant", mode="before")
    @classmethod
    def _no_loftq(cls, value: object) -> object:
        if value == "loftq":
            raise ValueError(
                "loftq makes up for what a quantised base has lost, and here every arm begins from the whole base. "
                "Take pissa, which begins from the base's own singular vectors; an adapter that was trained with loftq "
                "elsewhere can be merged onto its base (tunewise adapter merge)"
            )
        return value

    @model_validator(mode="after")
    def _only_a_drawn_start_has_a_scale(self) -> Self:
        if self.init_scale != 1 and self.variant in ("pissa", "olora"):
            raise ValueError(
                f"{self.variant} begins as a part of the weight, so init_scale cannot be set. Leave it out"
            )
        return self

    @model_validator(mode="after")
    def _auto_has_a_highest_rank(self) -> Self:
        if self.rank != "auto" and self.max_rank is not None:
            raise ValueError(f"max_rank goes with rank: auto, but rank is {self.rank}. Leave one of them out")
        if self.rank == "auto" and self.variant not in ("plain", "rslora"):
            raise ValueError(f"rank: auto truncates B A, which is not the whole update of {self.variant}. Name a rank")
        if self.rank == "auto" and self.targets == "auto":
            raise ValueError("rank: auto and targets: auto ask two questions at once. Name a rank or the targets")
        return self

    @property
    def has_open_rank(self) -> bool:
        """True if the arm's own trials choose its rank."""
        return self.rank == "auto"

    @property
    def has_open_targets(self) -> bool:
        """True if the arm becomes one for every placement."""
        return self.targets == "auto"

    @property
    def top_rank(self) -> int:
        """The rank that is trained: of `auto`, the highest one, which is truncated to all others."""
        return (self.max_rank or DEFAULT_MAX_RANK) if self.rank == "auto" else self.rank

    @property
    def truncations(self) -> tuple[int, ...]:
        """The powers of 2 below the highest rank of `auto`; none of a rank that is named."""
        ranks = (2**i for i in range(self.top_rank.bit_length()))
        return tuple(rank for rank in ranks if rank < self.top_rank) if self.rank == "auto" else ()

    def at(self, rank: int) -> Self:
        """The same arm at a rank that is named."""
        return self.replace(rank=rank, max_rank=None)

    def as_trained(self, *, is_confirmed: bool) -> Self:
        """The arm at the rank that is trained."""
        return self.at(self.top_rank)

    def in_words(self) -> str:
        """Kind, rank, alpha and its scale, what differs from the defaults, targets."""
        targets = self.targets if isinstance(self.targets, str) else ", ".join(self.targets)
        dropout = f", dropout {self.dropout:g}" if self.dropout else ""
        rank = f"auto up to {self.top_rank}" if self.rank == "auto" else self.rank
        start = f", A begun × {self.init_scale:g}" if self.init_scale != 1 else ""
        kind = LORA_NAMES[self.variant]
        return f"{kind} r={rank}, alpha={self.alpha:g} (scale {self.scale:.4g}){start}{dropout}, {targets}"

    @property
    def scale(self) -> float:
        """The factor on B A: alpha / rank, or alpha / sqrt(rank) for rsLoRA (arXiv 2312.03732)."""
        return self.alpha / (math.sqrt(self.top_rank) if self.variant == "rslora" else self.top_rank)


class HeadMethod(TrainedMethod):
    """Only the classification head learns: what the frozen base already knows."""

    method: Literal["head"] = "head"

    def in_words(self) -> str:
        """The method as a reader meets it."""
        return "classification head only"


class PeftMethod(TrainedMethod):
    """Any other method of the peft library, by its type and the options of its config class."""

    method: Literal["peft"] = "peft"
    type: str
    options: dict[str, Any] = {}

    @field_validator("options")
    @classmethod
    def _plain_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(options, allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"must be plain values (text, finite numbers, lists), but: {error}") from error
        if named := [name for name in options if name.startswith("megatron_")]:
            raise ValueError(f"{named[0]} is not taken: by it peft imports a module that the study names")
        return options

    def in_words(self) -> str:
        """peft's name of the method, and its options."""
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"peft {self.type}" + (f" ({options})" if options else "")


class ExistingMethod(AnyMethod):
    """An adapter or a model that was trained elsewhere: scored, never trained."""

    method: Literal["existing"] = "existing"
    path: Source

    def in_words(self) -> str:
        """The method as a reader meets it."""
        return f"trained elsewhere: {self.path}"


class BaseMethod(AnyMethod):
    """The untouched base, scored like an arm. Every study has it; it is not written in the study file."""

    method: Literal["base"] = "base"

    def in_words(self) -> str:
        """The method as a reader meets it."""
        return "the untouched pretrained model"


TrainedArm = FullMethod | LoraMethod | HeadMethod | PeftMethod
ArmMethod = Annotated[TrainedArm | ExistingMethod, Field(discriminator="method")]
Method = Annotated[TrainedArm | ExistingMethod | BaseMethod, Field(discriminator="method")]
METHOD_SPECS: dict[str, type[Frozen]] = {
    "full": FullMethod,
    "lora": LoraMethod,
    "head": HeadMethod,
    "peft": PeftMethod,
    "existing": ExistingMethod,
}
