"""A run on one screen: from its spec to its record. Nobody else knows all stages."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase, set_seed

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batch, Batching, Example, read_examples, step_rows
from tunewise.lab.data.examples import prompt_length
from tunewise.lab.evaluate.extract import extractions, find_change
from tunewise.lab.evaluate.forgetting import ForgettingCurve
from tunewise.lab.evaluate.generate import Generated, generate
from tunewise.lab.evaluate.score import require_finite, score, summarise
from tunewise.lab.evaluate.text_scores import written_columns
from tunewise.lab.evaluate.truncate import truncations
from tunewise.lab.machine import OthersMeter, describe_environment
from tunewise.lab.methods import Method, build_method, describe
from tunewise.lab.models.fusing import fuse
from tunewise.lab.models.load import Base, inner_model, load_base, load_config, load_tokenizer, load_tuned, padding_id
from tunewise.lab.models.packing import fit_attention
from tunewise.lab.train.begin import ready_to_train
from tunewise.lab.train.checkpoint import Checkpoints
from tunewise.lab.train.gradients import GradientWatch
from tunewise.lab.train.loop import DivergedError, Loop, Step, train
from tunewise.lab.train.memory import MemoryBudget
from tunewise.lab.train.meters import MemoryMeter
from tunewise.lab.train.optim import LearningRates, describe_groups, rate_factors
from tunewise.lab.train.state import Training, TrainingState
from tunewise.lab.train.step_log import StepLog
from tunewise.lab.train.updates import UpdateWatch
from tunewise.records import (
    SCORES_SCHEMA,
    SPECTRUM_SCHEMA,
    DataSummary,
    Evaluation,
    RunRecord,
    Sample,
    Usage,
    events,
    extracted_split,
    truncated_split,
)
from tunewise.records.events import Listener
from tunewise.records.selection import takes_over
from tunewise.spec import (
    BaseMethod,
    ExistingMethod,
    FullMethod,
    MachineSpec,
    RunSpec,
    forgetting_steps,
)
from tunewise.storage.disk import delete, files_below, set_modes, told, write_table
from tunewise.storage.ledger import Ledger
from tunewise.storage.seal import CARD


class Run:
    """One run: its spec, its data, its model, and where it can be continued from."""

    def __init__(
        self,
        spec: RunSpec,
        folder: Path,
        data_folder: Path,
        listener: Listener,
        checkpoints: Checkpoints | None = None,  # None: at the default interval, never asked to stop
    ) -> None:
        self.spec, self.folder, self.listener = spec, folder, listener
        self.checkpoints = checkpoints or Checkpoints(folder, MachineSpec().checkpoint_seconds)
        self.data = DataSummary.model_validate_json((data_folder / "data.json").read_text(encoding="utf-8"))
        self.data_folder = data_folder
        self.compute = Compute(spec.device, spec.precision)

    def execute(self, max_tokens: int | None = None) -> RunRecord:
        """Load, train, score, save; returns the record, already stored. Raises StoppedError if asked to stop.

        `max_tokens` of a batch are held in memory at once; None: what the study says.
        """
        spec = self.spec
        self.budget = MemoryBudget(spec.train.tokens_at_once, max_tokens)
        torch.set_num_threads(spec.threads)
        self.meter, self.others = MemoryMeter(spec.device), OthersMeter()
        started = datetime.now(UTC)
        set_seed(spec.seed)  # before anything random: new heads and adapters are drawn from it
        self.tokenizer = self._tokenizer()
        training = Training()
        model = self._final_model(training)
        start = time.perf_counter()
        with self.meter.phase("evaluate"):
            samples = self._score(model, training)
        training.evaluate_seconds += time.perf_counter() - start
        return self._store(training, self._usage(training, started), samples)

    def _usage(self, training: Training, started: datetime) -> Usage:
        load, evaluate = self.meter.memory("load"), self.meter.memory("evaluate")
        assert load is not None, "every run loads a model"
        assert evaluate is not None, "every run scores it"
        return Usage(
            load_seconds=training.load_seconds,
            train_seconds=training.train_seconds if training.num_steps else None,
            evaluate_seconds=training.evaluate_seconds,
            num_tokens=training.num_tokens,
            num_supervised_tokens=training.num_supervised_tokens,
            load_memory=load,
            train_memory=self.meter.memory("train"),
            evaluate_memory=evaluate,
            saved_bytes=training.saved_bytes,
            others_share=self.others.share(),
            num_continued=training.num_continued,
            micro_batch_tokens=self.budget.halved_to,
            started=started,
            ended=datetime.now(UTC),
        )

    # --- stages

    def _final_model(self, training: Training) -> torch.nn.Module:
        """What is scored: the base, what others trained, or what was trained here, if confirmed as read from disk."""
        spec = self.spec
        start = time.perf_counter()
        with self.meter.phase("load"):
            base = self._load_base()
        training.load_seconds = time.perf_counter() - start
        if isinstance(spec.method, BaseMethod):
            return self._take_up(base.model)
        if isinstance(spec.method, ExistingMethod):
            return self._take_up(load_tuned(base, Path(spec.method.path), spec.trust_remote_code))
        with self.meter.phase("train"):
            model, method = self._train(base, training)
        if spec.role != "confirm":
            return model
        training.saved_bytes = self._save(model, method)
        del base, model, method  # or two models would be in memory, and in the peak of the evaluation
        # what is scored is what the user gets: read back from disk, onto a fresh fp32 base
        return self._take_up(load_tuned(self._load_base(), self.folder / "weights", spec.trust_remote_code))

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        config = load_config(self.spec.model, self.spec.task, self.spec.trust_remote_code)
        return load_tokenizer(self.spec.model, config, self.spec.trust_remote_code)

    def _load_base(self) -> Base:
        spec = self.spec
        base = load_base(spec.model, spec.task, self.data.labels, self.tokenizer, spec.trust_remote_code)
        if spec.attention is not None:
            base.model.set_attn_implementation(spec.attention)
        return base

    def _take_up(self, model: torch.nn.Module) -> torch.nn.Module:
        """The fp32 model on its device, with the kernels that suit it; its batches are made accordingly."""
        spec = self.spec
        fuse(model)
        max_packed_length = fit_attention(model.to(spec.device), spec.attention, spec.task)
        padding = padding_id(self.tokenizer, inner_model(model).get_input_embeddings().weight.shape[0])
        self.of_model = Batching(self.budget.max_tokens, padding, max_packed_length)
        return model

    @property
    def batching(self) -> Batching:
        """How rows become batches for the model that was taken up, within the memory there is."""
        return replace(self.of_model, max_tokens=self.budget.max_tokens)

    def _train(self, base: Base, training: Training) -> tuple[torch.nn.Module, Method]:
        spec = self.spec
        assert spec.learning_rate is not None, "an arm that trains has a learning rate"
        examples, valid = self._examples("train"), self._examples("valid")
        num_steps = spec.train.num_steps(len(examples))
        method = build_method(spec.method, spec.task, num_steps)
        model = self._take_up(method.prepare(base))
        rates = LearningRates(spec.learning_rate, spec.head_learning_rate)
        optimizer = ready_to_train((model, method), base.head_modules, spec.train, rates, self.compute)
        training.tuned = describe(model, method).replace(parameter_groups=describe_groups(optimizer))
        watch, gradients = UpdateWatch(optimizer), GradientWatch(model, method)
        curve = self._forgetting_curve(num_steps, valid)
        log = StepLog(self.folder / "steps.jsonl")
        state = TrainingState(model, optimizer, method, watch, curve, training, log, self.meter)
        self.checkpoints.restore(state)
        self.budget.lower(training.micro_batch_tokens)

        def after_step(model: torch.nn.Module, index: int) -> None:
            gradients.look()
            watch.compare(index + 1)
            method.after_step(model, index)
            watch.remember(index + 1)

        loop = Loop(
            optimizer=optimizer,
            rate_factors=rate_factors(spec.train, num_steps),
            clip_norm=spec.train.clip_norm,
            compute=self.compute,
            after_step=after_step,
            first_step=training.num_steps,
            recut=lambda batches: self._recut(examples, batches),
        )
        evaluate_at = spec.train.evaluation_steps(num_steps)
        try:
            if not training.num_steps:
                self._measure(state)
            for step in train(model, self._batches(examples, training.num_steps, num_steps), loop):
                self._note(step, state, num_steps)
                evaluation = self._evaluate(state, valid) if step.step in evaluate_at else None
                self._measure(state, evaluation)
                self.checkpoints.after_step(state)
        except DivergedError as error:
            training.diverged = str(error)
        gradients.finish(training.warn)
        log.close()
        curve.write(self.folder / "forgetting.parquet")
        training.updates_kept = watch.median()
        return self._selected(state), method

    def _selected(self, state: TrainingState) -> torch.nn.Module:
        """The model with the weights that the checkpoint rule selected; the untrained one if there are none."""
        selected = state.training.selected_file
        if selected is None:
            set_seed(self.spec.seed)
            return self._take_up(state.method.prepare(self._load_base()))
        state.model.load_state_dict(self.checkpoints.selected(selected), strict=False)
        return state.model

    def _batches(self, examples: list[Example], num_done: int, num_steps: int) -> Iterator[list[Batch]]:
        rows_of_steps = step_rows(len(examples), self.spec.train.batch_size, num_steps, self.spec.seed)
        for rows in islice(rows_of_steps, num_done, None):
            yield list(self.batching.batches(examples, rows))

    def _recut(self, examples: list[Example], batches: Sequence[Batch]) -> list[Batch] | None:
        if not self.budget.lower_below(batches):
            return None
        return list(self.batching.batches(examples, [row for batch in batches for row in batch.rows]))

    def _note(self, step: Step, state: TrainingState, num_steps: int) -> None:
        training = state.training
        training.num_steps = step.step
        training.micro_batch_tokens = self.budget.halved_to
        training.train_seconds += step.seconds
        training.num_tokens += step.num_tokens
        training.num_supervised_tokens += step.num_targets
        row = asdict(step)
        state.log.write(json.dumps(row))
        self.listener(events.Step(num_steps=num_steps, **row))

    def _evaluate(self, state: TrainingState, valid: list[Example]) -> Evaluation:
        start, training = time.perf_counter(), state.training
        with self.meter.phase("evaluate"):
            rows = self._rows(state.model, valid, self.compute)
        evaluation = summarise(rows, training.num_steps)
        training.evaluate_seconds += time.perf_counter() - start
        if not math.isfinite(evaluation.nll):
            raise DivergedError(f"step {training.num_steps}: loss on valid is {evaluation.nll}")
        best = next((e for e in training.evaluations if e.step == training.selected_step), None)
        training.evaluations.append(evaluation)
        if self.spec.checkpoint == "last" or best is None or takes_over(training.evaluations, best):
            training.valid_rows = rows
            self.checkpoints.select(state)
        return evaluation

    def _forgetting_curve(self, num_steps: int, valid: list[Example]) -> ForgettingCurve:
        points = self.spec.forgetting_points
        return ForgettingCurve(forgetting_steps(points, num_steps), valid, self._examples("general") if points else [])

    def _measure(self, state: TrainingState, evaluation: Evaluation | None = None) -> None:
        training = state.training
        if training.num_steps not in state.curve.steps:
            return  # a phase gives freed memory back, which the next step would have to ask for again
        start = time.perf_counter()
        with self.meter.phase("evaluate"):
            state.curve.measure(
                training.num_steps, lambda rows: self._rows(state.model, rows, self.compute), evaluation
            )
        training.evaluate_seconds += time.perf_counter() - start

    def _save(self, model: torch.nn.Module, method: Method) -> int:
        weights = self.folder / "weights"
        if self.data.chat_template is not None:
            self.tokenizer.chat_template = self.data.chat_template
        delete(weights)
        with told(weights):
            weights.mkdir()  # a new one, so that nothing in it can be a link
            method.save(model, weights)
            saved_bytes = sum(path.stat().st_size for path in files_below(weights) if path.name != CARD)
            self.tokenizer.save_pretrained(weights)
        set_modes(weights)
        return saved_bytes

    def _score(self, model: torch.nn.Module, training: Training) -> tuple[Sample, ...]:
        """Write scores.parquet: valid as the selection saw it, test and general text in fp32.

        A trial, whose model was never stored, scores general text alone, in the precision of training.
        """
        spec = self.spec
        is_trial = spec.role in ("short", "tune")
        splits = [name for name in spec.score_splits if not (is_trial or (name == "valid" and training.valid_rows))]
        compute = self.compute if is_trial else Compute(spec.device, "fp32")
        rows = [{"split": "valid", **row} for row in training.valid_rows]
        if spec.ranks and training.valid_rows:
            rows += self._truncated(model, training)
        samples: tuple[Sample, ...] = ()
        for split in [*splits, *(["general"] if spec.inputs.general else [])]:
            examples = self._examples(split)
            found = require_finite(self._rows(model, examples, compute), spec.model)
            if split == "test":
                found, samples = self._answers(model, examples, found)
            rows += [{"split": split, **row} for row in found]
        if isinstance(spec.method, FullMethod) and spec.method.extract and training.valid_rows:
            rows += self._extracted(model, spec.method)
        write_table(self.folder / "scores.parquet", pa.Table.from_pylist(rows, schema=SCORES_SCHEMA))
        return samples

    def _rows(self, model: torch.nn.Module, examples: Sequence[Example], compute: Compute) -> list[dict[str, Any]]:
        return self.budget.within(lambda: score(model, examples, self.batching, compute), examples)

    def _truncated(self, model: torch.nn.Module, training: Training) -> list[dict[str, Any]]:
        """The rows of valid for every truncation of the trained adapter, in the precision of training as valid is."""
        valid, rows = self._examples("valid"), []
        scored: dict[tuple[int, ...], list[dict[str, Any]]] = {}  # a small budget leaves nothing to be spread
        for cut_down in truncations(model, self.spec.ranks):
            ranks = tuple(cut_down.ranks.values())
            if ranks not in scored:
                scored[ranks] = self._rows(model, valid, self.compute)
            found = scored[ranks]
            split = truncated_split("valid", cut_down.rank, cut_down.spread)
            if cut_down.spread:
                training.rank_patterns[cut_down.rank] = dict(cut_down.ranks)
            rows += [{"split": split, **row} for row in found]
        return rows

    def _extracted(self, model: torch.nn.Module, method: FullMethod) -> list[dict[str, Any]]:
        """The rows of valid for every adapter cut out of what was learned, in the precision of training as valid is.

        Writes spectrum.parquet.
        """
        valid, rows = self._examples("valid"), []
        with self.meter.phase("extract"):  # holds two models, which the peak of the evaluation must not tell
            base = self._load_base()
            self._take_up(base.model)
            change = find_change(model, base, method.extract)
            write_table(
                self.folder / "spectrum.parquet", pa.Table.from_pylist(list(change.modules), schema=SPECTRUM_SCHEMA)
            )
            for adapter in extractions(model, base, change):
                found = self._rows(base.model, valid, self.compute)
                split = extracted_split("valid", adapter.targets, adapter.rank)
                rows += [{"split": split, **row} for row in found]
        return rows

    def _answers(
        self, model: torch.nn.Module, examples: list[Example], rows: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], tuple[Sample, ...]]:
        """The rows of test, with what the model wrote where metrics ask for it; and the first answers, to be shown."""
        spec = self.spec
        shown = examples[: spec.samples.count]
        if spec.task == "classify":
            outputs = [self.data.labels[row["prediction"]] for row in rows]
        else:
            written = self._generate(model, examples if spec.metrics else shown)
            outputs = [one.text for one in written]
        if spec.metrics:
            columns = written_columns(spec.metrics, examples, written)
            rows = [{**row, **of_row} for row, of_row in zip(rows, columns, strict=True)]
        samples = (
            Sample(example=example.example, prompt=example.prompt, output=output, reference=example.reference)
            for example, output in zip(shown, outputs, strict=False)
        )
        return rows, tuple(samples)

    def _generate(self, model: torch.nn.Module, examples: list[Example]) -> list[Generated]:
        spec = self.spec
        prompts = [e.input_ids[: prompt_length(spec.task, e.supervised)] for e in examples]
        max_tokens = self.budget.max_tokens
        written: list[Generated] = generate(model, self.tokenizer, prompts, spec.samples.max_new_tokens, max_tokens)
        return written

    def _store(self, training: Training, usage: Usage, samples: tuple[Sample, ...]) -> RunRecord:
        record = RunRecord(
            run_id=self.spec.run_id,
            spec=self.spec,
            status="diverged" if training.diverged else "done",
            message=training.diverged,
            tuned=training.tuned,
            num_steps=training.num_steps,
            evaluations=tuple(training.evaluations),
            selected_step=training.selected_step,
            updates_kept=training.updates_kept,
            rank_patterns=training.rank_patterns,
            warnings=tuple(training.warnings),
            samples=samples,
            usage=usage,
            environment=describe_environment(self.spec.device),
        )
        Ledger(self.folder.parent.parent).finish(record)
        return record

    def _examples(self, split: str) -> list[Example]:
        return read_examples(self.data_folder / f"{split}.parquet")
