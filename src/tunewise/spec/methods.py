"""Tuning methods of a study: full fine-tuning, LoRA and its variants, the head alone, any peft method."""

import json
import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tunewise.spec.frozen import AnyMethod, Frozen
from tunewise.spec.words import REFUSED, Quantization, Source, Sources

DEFAULT_MAX_RANK = 64
LORA_NAMES = {"plain": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA", "olora": "OLoRA"}
Rank = Annotated[int, Field(ge=1)]
Ranks = Annotated[tuple[Rank, ...], Field(min_length=1)]
HIGHEST_RANK = 65_536  # no weight matrix of these models has a higher rank


class TrainedMethod(AnyMethod):
    """Options common to every trained method."""

    is_trained: ClassVar[bool] = True

    learning_rate: float | None = Field(
        None, gt=0, description="center of the learning-rate search; None: by model and method"
    )
    rates: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None,
        min_length=1,
        description="fixed learning rates instead of the search; always reported, and blocks a verdict",
    )


class OnStoredBase(AnyMethod):
    """Options of methods whose base can be stored in fewer bits."""

    left_out: ClassVar[tuple[str, ...]] = ("base",)

    base: Quantization | None = Field(
        None,
        description="QLoRA (arXiv 2305.14314): nf4 stores the base's frozen linear weights in 4 bits, nf4-double also "
        "their scales in 8 bits; None: whole",
    )


def _on_all_linear(value: object) -> object:
    """Turn `extract: [8]` into `extract: {all-linear: [8]}`."""
    return {"all-linear": value} if isinstance(value, list | tuple) else value


class FullMethod(TrainedMethod):
    """Full fine-tuning: trains every parameter."""

    method: Literal["full"] = "full"
    extract: Annotated[
        dict[str, Ranks], BeforeValidator(_on_all_linear, json_schema_input_type=dict[str, Ranks] | Ranks)
    ] = Field(
        {},
        description="{targets: ranks}, or ranks of all-linear: adapters of these ranks are extracted from the update "
        "by SVD and scored on the validation set, to test whether the task has low rank",
    )

    @field_validator("extract")
    @classmethod
    def _rising_ranks(cls, extract: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {targets: tuple(sorted(set(ranks))) for targets, ranks in extract.items()}

    @property
    def num_extracted(self) -> int:
        """Number of scorings: adapters of every rank, and the whole change."""
        return sum(len(ranks) + 1 for ranks in self.extract.values())

    def as_trained(self, *, is_confirmed: bool) -> Self:
        """The same method; a trial extracts nothing."""
        return self if is_confirmed else self.replace(extract={})

    def in_words(self) -> str:
        """The method in words."""
        return "full fine-tuning"


class LoraMethod(OnStoredBase, TrainedMethod):
    """LoRA (Hu et al. 2021, arXiv 2106.09685): W + scale * B A, with B and A of the given rank."""

    method: Literal["lora"] = "lora"
    rank: int | Literal["auto"] = Field(
        8,
        description="auto: smallest rank at which a truncated max_rank adapter is within the margin "
        "on the validation set",
    )
    max_rank: int | None = Field(
        None, ge=2, le=HIGHEST_RANK, description="with rank: auto, the rank that is trained first; None: 64"
    )
    # With scale = alpha / rank a fixed alpha makes the best learning rate nearly independent of the rank
    # (Schulman et al. 2025, "LoRA Without Regret", which uses 32).
    alpha: float = Field(32.0, gt=0)
    init_scale: float = Field(1.0, gt=0, description="factor on the initial values of A")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = Field(
        "all-linear", description="modules to adapt; auto: one arm per placement, at equal parameter counts"
    )
    variant: Literal["plain", "rslora", "dora", "pissa", "olora"] = Field(
        "plain",
        description="rslora: scale alpha / sqrt(rank) (arXiv 2312.03732); dora: a trained magnitude per output "
        "(2402.09353); pissa, olora: B A is initialized from the weight (2404.02948; 2406.01775)",
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

    @field_validator("variant", "base", mode="before")
    @classmethod
    def _not_of_another_arm(cls, value: object) -> object:
        if isinstance(value, str) and value in REFUSED:
            raise ValueError(REFUSED[value])
        return value

    @model_validator(mode="after")
    def _a_start_from_the_weight_is_taken_whole(self) -> Self:
        if self.variant in ("pissa", "olora") and (self.init_scale != 1 or self.base is not None):
            option = "base" if self.base else "init_scale"
            raise ValueError(f"{self.variant} is initialized from the weight, so {option} cannot be set. Remove it")
        return self

    @model_validator(mode="after")
    def _auto_has_a_highest_rank(self) -> Self:
        if self.rank != "auto" and self.max_rank is not None:
            raise ValueError(f"max_rank needs rank: auto, but rank is {self.rank}. Remove one of them")
        if self.rank == "auto" and self.variant not in ("plain", "rslora"):
            raise ValueError(f"rank: auto truncates B A, which is not the whole update of {self.variant}. Set a rank")
        if self.rank == "auto" and self.targets == "auto":
            raise ValueError("rank: auto and targets: auto cannot be combined. Set the rank or the targets")
        return self

    @property
    def has_open_rank(self) -> bool:
        """True if the arm's own trials choose its rank."""
        return self.rank == "auto"

    @property
    def has_open_targets(self) -> bool:
        """True if one arm per placement replaces this one."""
        return self.targets == "auto"

    @property
    def top_rank(self) -> int:
        """The rank that is trained; for `auto` the highest one, which is then truncated to all others."""
        return (self.max_rank or DEFAULT_MAX_RANK) if self.rank == "auto" else self.rank

    @property
    def truncations(self) -> tuple[int, ...]:
        """Powers of 2 below the highest rank of `auto`; () for a definite rank."""
        ranks = (2**i for i in range(self.top_rank.bit_length()))
        return tuple(rank for rank in ranks if rank < self.top_rank) if self.rank == "auto" else ()

    def at(self, rank: int) -> Self:
        """The same arm with a definite rank."""
        return self.replace(rank=rank, max_rank=None)

    def as_trained(self, *, is_confirmed: bool) -> Self:
        """The arm at the rank that is trained."""
        return self.at(self.top_rank)

    def in_words(self) -> str:
        """Kind, rank, alpha, scale, options that differ from the defaults, and targets, in words."""
        targets = self.targets if isinstance(self.targets, str) else ", ".join(self.targets)
        dropout = f", dropout {self.dropout:g}" if self.dropout else ""
        rank = f"auto up to {self.top_rank}" if self.rank == "auto" else self.rank
        start = f", initial A × {self.init_scale:g}" if self.init_scale != 1 else ""
        kind = LORA_NAMES[self.variant] + (f" on {self.base}" if self.base else "")
        return f"{kind} r={rank}, alpha={self.alpha:g} (scale {self.scale:.4g}){start}{dropout}, {targets}"

    @property
    def scale(self) -> float:
        """Factor on B A: alpha / rank, or alpha / sqrt(rank) for rsLoRA (arXiv 2312.03732)."""
        return self.alpha / (math.sqrt(self.top_rank) if self.variant == "rslora" else self.top_rank)


class HeadMethod(TrainedMethod):
    """Trains only the classification head, which shows what the frozen base already knows."""

    method: Literal["head"] = "head"

    def in_words(self) -> str:
        """The method in words."""
        return "classification head only"


class PeftMethod(TrainedMethod):
    """Any other method of the peft library, given by its type and the options of its config class."""

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
            raise ValueError(f"{named[0]} is not allowed: it makes peft import a module that the study names")
        return options

    def in_words(self) -> str:
        """peft's name of the method, and its options."""
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"peft {self.type}" + (f" ({options})" if options else "")


class ExistingMethod(AnyMethod):
    """An adapter or a model trained elsewhere, or one for every seed: scored, never trained."""

    left_out: ClassVar[tuple[str, ...]] = ("path", "paths")

    method: Literal["existing"] = "existing"
    path: Source | None = Field(None, description="folder of an adapter or a model, which counts for every seed")
    paths: Sources = Field((), description="a folder for every seed, in the place of `path`")

    @model_validator(mode="before")
    @classmethod
    def _one_or_several(cls, content: object) -> object:
        if isinstance(content, dict) and bool(content.get("path")) == bool(content.get("paths")):
            given = "both are given" if content.get("path") else "none is given"
            raise ValueError(f"name one folder in path, or a folder for every seed in paths, but {given}")
        return content

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders in order of seed, or the one that counts for every seed."""
        return self.paths or (self.path or "",)

    @property
    def has_seeds(self) -> bool:
        """True if every seed has a folder of its own."""
        return bool(self.paths)

    def of_seed(self, place: int) -> Self:
        """The arm as the run of the seed at this place scores it: with one folder."""
        return self.replace(path=self.folders[place if self.paths else 0], paths=())

    def in_words(self) -> str:
        """The method in words."""
        more = f" and {len(self.paths) - 1} more" if self.paths else ""
        return f"trained elsewhere: {self.folders[0]}{more}"


class BaseMethod(OnStoredBase):
    """The untouched base, scored like an arm. Every study has it; the study file does not name it."""

    method: Literal["base"] = "base"

    def in_words(self) -> str:
        """The method in words."""
        return "the untouched pretrained model" + (f", stored as {self.base}" if self.base else "")


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
