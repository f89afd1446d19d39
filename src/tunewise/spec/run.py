"""Frozen specification of one run, with everything that can change its result."""

import hashlib
from typing import Literal

from tunewise.spec.frozen import Frozen, canonical_json
from tunewise.spec.methods import FullMethod, LoraMethod, Method
from tunewise.spec.metrics import MetricSpec, SamplesSpec
from tunewise.spec.tasks import Task
from tunewise.spec.train import TrainSpec
from tunewise.spec.words import NUMERICS, Attention, Device, Precision, Role, Scoring, Split


class Inputs(Frozen):
    """SHA-256 fingerprints of everything a run reads, and the versions that determine its numbers."""

    base: str
    tokenizer: str
    data: str
    general: str | None  # None: forgetting is not measured
    existing: str | None  # weights of an `existing` arm
    versions: dict[str, str]  # minor versions of torch, transformers, peft


def forgetting_steps(points: int, num_steps: int) -> frozenset[int]:
    """Steps of a run at which forgetting is measured: 0, the last one, and evenly spaced between; () for 0 points."""
    return frozenset(round(num_steps * i / points) for i in range(points + 1)) if points else frozenset()


def whole_because(arm: Method) -> str | None:
    """Why several devices cannot make a run of this arm together, and the nearest arm that they can; None: they can."""
    match arm:
        case FullMethod(extract=extract) if extract:
            return "extract needs whole weights in one process. Remove extract"
        case FullMethod():
            return None
        case LoraMethod(variant="pissa" | "olora" as variant):
            return f"{variant} rewrites the weights of the base, which was not tried in parts. Use variant: rslora"
        case LoraMethod(base=str() as base):
            return f"base: {base} stores weights in packed form, which cannot be divided. Remove base"
        case LoraMethod(rank="auto"):
            return "rank: auto truncates whole adapters. Set a rank, such as 8"
        case LoraMethod():
            return None
    return f"method {arm.method} was not tried in parts. Use method lora or full"


class RunSpec(Frozen):
    """One training of one arm at one learning rate with one seed, or one scoring for base and existing arms."""

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
    ranks: tuple[int, ...] = ()  # truncations of the trained adapter to these ranks are scored on the validation set
    samples: SamplesSpec
    metrics: tuple[MetricSpec, ...] = ()
    forgetting_points: int  # measurements of validation set and general text during training; 0: none
    device: Device
    precision: Precision
    threads: int
    attention: Attention | None = None
    select_by: MetricSpec | None = None  # chooses checkpoints on the validation set; None: the task's own
    scoring: Scoring = "exact"
    devices: int = 1  # processes that make the run together, a device for each
    resample: bool = False  # train and valid are this seed's draw from the rows of both
    inputs: Inputs
    numerics: int = NUMERICS

    @property
    def run_id(self) -> str:
        """16 hex digits: a hash of everything that can change the result, so not of names or paths."""
        content = self.model_dump(mode="json", exclude={"arm", "role", "model"})
        for name in ("learning_rate", "rates"):  # they only place the search; the learning rate itself is hashed
            content["method"].pop(name, None)
        content["method"].pop("path", None)  # inputs.existing hashes its contents
        for name in ("max_rank", "extract"):  # later fields: left out at their defaults, so that old ids stay valid
            if not content["method"].get(name):
                content["method"].pop(name, None)
        if content["method"].get("init_scale") == 1:
            del content["method"]["init_scale"]
        for name in ("ranks", "resample", "select_by", "scoring", "devices"):  # later fields, too
            if getattr(self, name) == type(self).model_fields[name].default:
                del content[name]
        content["train"].pop("head_learning_rate", None)
        content["train"]["evaluations"] = self.train.num_evaluations
        for metric in content["metrics"]:
            if metric["kind"] is None:  # the form before a metric could have its own name, so that old ids stay valid
                metric.pop("kind")
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]
