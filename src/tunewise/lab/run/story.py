"""A run on one screen: load, adapt, train, select, save, reload, score, record."""

import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from transformers import set_seed

from tunewise.lab.machine import OthersMeter
from tunewise.lab.methods import Method
from tunewise.lab.models.load import Base, inner_model, load_config, load_tokenizer, load_tuned
from tunewise.lab.run.context import ReadyModel, RunContext
from tunewise.lab.run.record import store_record, usage_of
from tunewise.lab.run.saving import save
from tunewise.lab.run.scoring import Scoring
from tunewise.lab.run.training import adapt
from tunewise.lab.train.checkpoint import Checkpoints
from tunewise.lab.train.memory import MemoryBudget
from tunewise.lab.train.meters import MemoryMeter
from tunewise.lab.train.state import Training
from tunewise.records import DataSummary, RunRecord
from tunewise.records.events import Listener
from tunewise.spec import ExistingMethod, MachineSpec, RunSpec
from tunewise.storage.lease import Lease


class Run:
    """One run: its specification, its data, and its checkpoints."""

    def __init__(
        self,
        spec: RunSpec,
        folder: Path,
        data_folder: Path,
        listener: Listener,
        checkpoints: Checkpoints | None = None,  # None: at the default interval, never asked to stop, in one process
        lease: Lease | None = None,  # None: no other process can make this run
    ) -> None:
        self.spec, self.folder, self.data_folder, self.listener = spec, folder, data_folder, listener
        self.lease = lease
        self.checkpoints = checkpoints or Checkpoints(folder, MachineSpec().checkpoint_seconds)
        self.data = DataSummary.model_validate_json((data_folder / "data.json").read_text(encoding="utf-8"))

    def execute(self, max_tokens: int | None = None) -> RunRecord:
        """Load, train, save, score; returns the stored record. Raises StoppedError if asked to stop.

        `max_tokens` of a batch are in memory at once; None: as the study says.
        """
        torch.set_num_threads(self.spec.threads)
        meter, others, started = MemoryMeter(self.spec.device), OthersMeter(), datetime.now(UTC)
        set_seed(self.spec.seed)  # before anything random: new heads and adapters are initialized from it
        run = self._context(meter, max_tokens)
        final = self._final_model(run)
        run.placement.shard(inner_model(final.model))
        with run.evaluation():
            samples = Scoring(run, final).write()
        return store_record(run, samples, usage_of(run, others, started), self.lease)

    def _context(self, meter: MemoryMeter, max_tokens: int | None) -> RunContext:
        spec = self.spec
        config = load_config(spec.model, spec.task, spec.trust_remote_code)
        return RunContext(
            spec=spec,
            folder=self.checkpoints.run_folder,
            weights=self.folder / "weights",
            data_folder=self.data_folder,
            data=self.data,
            tokenizer=load_tokenizer(spec.model, config, spec.trust_remote_code),
            listener=self.listener,
            budget=MemoryBudget(spec.train.tokens_at_once, max_tokens, self.checkpoints.placement),
            meter=meter,
            training=Training(),
            placement=self.checkpoints.placement,
        )

    def _final_model(self, run: RunContext) -> ReadyModel:
        """The model to score: the base, an existing one, or the trained one, which is read from disk if confirmed."""
        spec = run.spec
        base = load(run)
        if isinstance(spec.method, ExistingMethod):
            assert spec.method.path is not None, "a run scores the folder of its seed"
            return run.ready(load_tuned(base, Path(spec.method.path), spec.trust_remote_code))
        if not spec.method.is_trained:
            return run.ready(base.model)
        with run.meter.phase("train"):
            method, selected = self._trained(run, base)
        if spec.role != "confirm":
            return selected
        # the first process saves, and the others wait until it has
        run.training.saved_bytes, *_ = run.placement.gathered(save(run, method, selected.model))
        del base, method, selected  # otherwise two models would be in memory, and in the peak of the evaluation
        # score what the user gets: read back from disk, onto a fresh fp32 base
        return run.as_scored(run.ready(load_tuned(run.load_base(), run.weights, spec.trust_remote_code)))

    def _trained(self, run: RunContext, base: Base) -> tuple[Method, ReadyModel]:
        """The model with the selected weights. The optimizer is released with the session."""
        session = adapt(run, base, self.checkpoints)
        session.train()
        return session.method, session.selected()


def load(run: RunContext) -> Base:
    """Base of the run; its time and memory are recorded."""
    start = time.perf_counter()
    with run.meter.phase("load"):
        base = run.load_base()
    run.training.load_seconds = time.perf_counter() - start
    return base
