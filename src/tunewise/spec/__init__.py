"""Specifications of studies, arms and runs: frozen, free of files. Every default of the product is defined here."""

from tunewise.spec.data import CHAT_ROLES, DataSpec, Limits, SplitShares
from tunewise.spec.frozen import Frozen, canonical_json
from tunewise.spec.methods import (
    METHOD_SPECS,
    BaseMethod,
    ExistingMethod,
    FullMethod,
    HeadMethod,
    LoraMethod,
    Method,
    PeftMethod,
    TrainedArm,
)
from tunewise.spec.metrics import ForgettingSpec, MetricSpec, SamplesSpec
from tunewise.spec.quantities import DEFAULT_MARGINS, Margin, Price, parse_budget, parse_margin
from tunewise.spec.run import Inputs, RunSpec, forgetting_steps, whole_because
from tunewise.spec.study import (
    ARM_NAME,
    DEFAULT_LOOKS,
    MAX_SEEDS,
    StudySpec,
    same_arm,
)
from tunewise.spec.tasks import TASKS, Task
from tunewise.spec.train import MachineSpec, SlurmSpec, TrainSpec, TuningSpec
from tunewise.spec.words import (
    BASES,
    NO_DATA,
    NUMERICS,
    SPLIT_NAMES,
    Attention,
    CostName,
    Device,
    Precision,
    Quantization,
    Role,
    Scoring,
    Split,
)

__all__ = [
    "ARM_NAME",
    "BASES",
    "Attention",
    "BaseMethod",
    "CHAT_ROLES",
    "CostName",
    "DEFAULT_LOOKS",
    "DEFAULT_MARGINS",
    "DataSpec",
    "Device",
    "ExistingMethod",
    "ForgettingSpec",
    "Frozen",
    "FullMethod",
    "HeadMethod",
    "Inputs",
    "Limits",
    "LoraMethod",
    "MAX_SEEDS",
    "METHOD_SPECS",
    "MachineSpec",
    "Margin",
    "Method",
    "MetricSpec",
    "NO_DATA",
    "NUMERICS",
    "PeftMethod",
    "Precision",
    "Price",
    "Quantization",
    "Role",
    "RunSpec",
    "SPLIT_NAMES",
    "SamplesSpec",
    "Scoring",
    "Split",
    "SlurmSpec",
    "SplitShares",
    "StudySpec",
    "TASKS",
    "Task",
    "TrainSpec",
    "TrainedArm",
    "TuningSpec",
    "canonical_json",
    "forgetting_steps",
    "parse_budget",
    "parse_margin",
    "same_arm",
    "whole_because",
]
