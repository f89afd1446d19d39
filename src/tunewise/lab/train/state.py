"""Everything that changes during a run: its notes, weights, optimizer and random states."""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from tunewise.lab.methods import Method
from tunewise.lab.placement import local, placed_like, put
from tunewise.lab.train.meters import MemoryMeter
from tunewise.lab.train.step_log import StepLog
from tunewise.lab.train.updates import UpdateWatch
from tunewise.records import Evaluation, TrainableSummary


@dataclass
class Training:
    """Notes of one run's training, which grow while it runs."""

    tuned: TrainableSummary | None = None
    num_steps: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    selected_step: int | None = None  # None: the untrained model
    selected_file: str | None = None  # its weights, in the folder of the checkpoints
    valid_rows: list[dict[str, Any]] = field(default_factory=list)
    num_tokens: int = 0
    num_supervised_tokens: int = 0
    load_seconds: float = 0.0
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    num_continued: int = 0  # how often a later process resumed the run
    micro_batch_tokens: int | None = None  # at once, after memory ran out for what the study asks for
    warnings: list[str] = field(default_factory=list)
    updates_kept: float | None = None
    rank_patterns: dict[int, dict[str, int]] = field(default_factory=dict)
    saved_bytes: int | None = None  # None: nothing was saved
    diverged: str | None = None

    def warn(self, text: str) -> None:
        """Add a remark for the report, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def to_plain(self) -> dict[str, Any]:
        """The notes, ready for JSON, without what the next start determines again (`tuned`)."""
        plain = {**asdict(self), "evaluations": [e.model_dump() for e in self.evaluations]}
        del plain["tuned"]
        return plain

    def take(self, plain: Mapping[str, Any]) -> None:
        """Restore the result of `to_plain`, except the time to load, which belongs to this process."""
        for name in self.to_plain().keys() - {"load_seconds"}:
            setattr(self, name, plain[name])
        self.evaluations = [Evaluation.model_validate(e) for e in plain["evaluations"]]


@dataclass
class TrainingState:
    """Everything that a checkpoint contains, and how to restore it."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    method: Method
    watch: UpdateWatch
    forgetting: list[dict[str, Any]]  # the measurements so far, a list that grows during training
    training: Training
    log: StepLog
    meter: MemoryMeter

    def __post_init__(self) -> None:
        # fixed here, because a method may freeze some of them later
        self.learned = {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Trained weights, buffers, the optimizer's moments, the method's state, random states: this process's part."""
        found = {f"model.{name}": local(tensor) for name, tensor in self._of_model().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{name}": local(tensor) for name, tensor in moments.items()}
        found |= {f"method.{name}": tensor for name, tensor in self.method.state(self.model).items()}
        found["random.cpu"] = torch.get_rng_state()
        if self.meter.device != "cpu":
            found["random.device"] = torch.get_device_module(self.meter.device).get_rng_state()
        return found

    def notes(self) -> dict[str, Any]:
        """Everything else, ready for JSON."""
        return {
            "training": self.training.to_plain(),
            "forgetting": self.forgetting,
            "update_shares": self.watch.shares,
            "still_learning": [name for name, p in self.learned.items() if p.requires_grad],
            "random": {"python": random.getstate(), "numpy": np.random.get_state(legacy=False)},
            "peaks": self.meter.peaks,
            "log": {"num_bytes": self.log.num_bytes, "sha256": self.log.digest.hexdigest()},
        }

    def restore(self, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]) -> None:
        """Restore the results of `tensors` and `notes`."""
        own = _without_prefix(tensors, "model.")
        put(self.model, ((tensor, own[name]) for name, tensor in self._of_model().items()))
        for name, parameter in self.learned.items():
            parameter.requires_grad_(name in notes["still_learning"])
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _without_prefix(tensors, "optimizer.").items():
            index, _, kind = name.partition(".")
            own_copy = tensor.clone()  # its file will be deleted
            moments.setdefault(int(index), {})[kind] = placed_like(own_copy, trained[int(index)])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.method.restore(self.model, _without_prefix(tensors, "method."))
        self.training.take(notes["training"])
        self.forgetting[:] = notes["forgetting"]
        self.watch.shares = notes["update_shares"]
        self.watch.remember(self.training.num_steps)
        self.meter.join(notes["peaks"])
        self.log.open(notes["log"]["num_bytes"])
        self._restore_random(tensors, notes["random"])

    def _of_model(self) -> dict[str, torch.Tensor]:
        return {**self.learned, **dict(self.model.named_buffers())}

    def _restore_random(self, tensors: Mapping[str, torch.Tensor], states: Mapping[str, Any]) -> None:
        version, numbers, gauss = states["python"]
        random.setstate((version, tuple(numbers), gauss))
        numpy_state = states["numpy"]
        numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], dtype=np.uint32)
        np.random.set_state(numpy_state)
        torch.set_rng_state(tensors["random.cpu"])
        if self.meter.device != "cpu":
            torch.get_device_module(self.meter.device).set_rng_state(tensors["random.device"])


def _without_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
