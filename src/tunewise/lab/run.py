"""A run on one screen: from its spec to its record. Nobody else knows all stages."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase, set_seed

from tunewise.lab.data.batching import Batch, Example, cut, make_batch, read_examples, step_rows
from tunewise.lab.data.examples import prompt_length
from tunewise.lab.evaluate.forgetting import ForgettingCurve
from tunewise.lab.evaluate.generate import Generated, generate
from tunewise.lab.evaluate.score import score, summarise
from tunewise.lab.evaluate.text_scores import written_columns
from tunewise.lab.methods import Method, build_method, describe
from tunewise.lab.models import Base, load_base, load_config, load_tokenizer, load_tuned, padding_id
from tunewise.lab.train.loop import DivergedError, Loop, Step, train
from tunewise.lab.train.meters import MemoryMeter, OthersMeter, describe_environment
from tunewise.lab.train.optim import describe_groups, make_optimizer, parameter_groups, rate_factors
from tunewise.lab.train.precision import assert_masters, store_frozen_weights
from tunewise.lab.train.updates import UpdateWatch
from tunewise.ledger import Ledger, files_below
from tunewise.records import SCORES_SCHEMA, DataSummary, Evaluation, RunRecord, Sample, Tuned, Usage
from tunewise.selection import takes_over
from tunewise.spec import BaseMethod, Device, ExistingMethod, Precision, RunSpec

SELECTED = "selected.safetensors"  # the learned weights of the best evaluation so far

Listener = Callable[[dict[str, Any]], None]


@dataclass
class Training:
    """What the training of one run leaves behind; grows while it runs."""

    tuned: Tuned | None = None
    num_steps: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    selected_step: int | None = None  # None: the untrained model
    valid_rows: list[dict[str, Any]] = field(default_factory=list)
    num_tokens: int = 0
    num_supervised_tokens: int = 0
    load_seconds: float = 0.0
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    updates_kept: float | None = None
    saved_bytes: int | None = None  # None: nothing was saved
    diverged: str | None = None


class Run:
    """One run: its spec, its data, its model."""

    def __init__(self, spec: RunSpec, folder: Path, data_folder: Path, listener: Listener) -> None:
        self.spec, self.folder, self.listener = spec, folder, listener
        self.data = DataSummary.model_validate_json((data_folder / "data.json").read_text(encoding="utf-8"))
        self.data_folder = data_folder
        self.where = (spec.device, spec.precision)

    def execute(self) -> RunRecord:
        """Load, train, score, save; returns the record, already stored."""
        spec = self.spec
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
            return base.model.to(spec.device)
        if isinstance(spec.method, ExistingMethod):
            return load_tuned(base, Path(spec.method.path), spec.trust_remote_code).to(spec.device)
        with self.meter.phase("train"):
            model, method = self._train(base, training)
        if spec.role != "confirm":
            return model
        training.saved_bytes = self._save(model, method)
        del base, model, method  # or two models would be in memory, and in the peak of the evaluation
        # what is scored is what the user gets: read back from disk, onto a fresh fp32 base
        return load_tuned(self._load_base(), self.folder / "weights", spec.trust_remote_code).to(spec.device)

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        config = load_config(self.spec.model, self.spec.task, self.spec.trust_remote_code)
        return load_tokenizer(self.spec.model, config, self.spec.trust_remote_code)

    def _load_base(self) -> Base:
        spec = self.spec
        base = load_base(spec.model, spec.task, self.data.labels, self.tokenizer, spec.trust_remote_code)
        if spec.attention is not None:
            base.model.set_attn_implementation(spec.attention)
        return base

    def _train(self, base: Base, training: Training) -> tuple[torch.nn.Module, Method]:
        spec = self.spec
        assert spec.learning_rate is not None, "an arm that trains has a learning rate"
        examples, valid = self._examples("train"), self._examples("valid")
        num_steps = spec.train.num_steps(len(examples))
        method = build_method(spec.method, spec.task, num_steps)
        model = method.prepare(base).to(spec.device)
        store_frozen_weights(model, spec.precision, method.fp32_modules)
        assert_masters(model)
        groups = parameter_groups(model, base.head_modules, spec.train, spec.learning_rate, spec.head_learning_rate)
        optimizer = make_optimizer(groups, spec.train, spec.device)
        training.tuned = describe(model, method).replace(parameter_groups=describe_groups(optimizer))
        watch = UpdateWatch(optimizer)

        def after_step(model: torch.nn.Module, index: int) -> None:
            watch.compare(index + 1)
            method.after_step(model, index)
            watch.remember(index + 1)

        loop = Loop(
            optimizer=optimizer,
            rate_factors=rate_factors(spec.train, num_steps),
            clip_norm=spec.train.clip_norm,
            device=spec.device,
            precision=spec.precision,
            after_step=after_step,
        )
        evaluate_at = spec.train.evaluation_steps(num_steps)
        curve = self._forgetting_curve(num_steps, valid)
        try:
            self._measure(curve, model, training)
            with (self.folder / "steps.jsonl").open("w", encoding="utf-8") as log:
                for step in train(model, self._batches(examples, num_steps), loop):
                    self._note(step, training, num_steps, log)
                    if step.step in evaluate_at:
                        self._evaluate(model, valid, training)
                    self._measure(curve, model, training)
        except DivergedError as error:
            training.diverged = str(error)
        curve.write(self.folder / "forgetting.parquet")
        training.updates_kept = watch.median()
        return self._selected(model, method, training), method

    def _selected(self, model: torch.nn.Module, method: Method, training: Training) -> torch.nn.Module:
        """The model with the weights that the checkpoint rule selected; the untrained one if there are none."""
        if training.selected_step is None:
            set_seed(self.spec.seed)
            return method.prepare(self._load_base()).to(self.spec.device)
        model.load_state_dict(load_file(self.folder / SELECTED, device=self.spec.device), strict=False)
        (self.folder / SELECTED).unlink()
        return model

    def _batches(self, examples: list[Example], num_steps: int) -> Iterator[list[Batch]]:
        train_spec, padding = self.spec.train, padding_id(self.tokenizer)
        for rows in step_rows(len(examples), train_spec.batch_size, num_steps, self.spec.seed):
            pieces = cut(examples, rows, train_spec.micro_batch_tokens)
            yield [make_batch(examples, piece, padding) for piece in pieces]

    def _note(self, step: Step, training: Training, num_steps: int, log: Any) -> None:
        training.num_steps = step.step
        training.train_seconds += step.seconds
        training.num_tokens += step.num_tokens
        training.num_supervised_tokens += step.num_targets
        row = asdict(step)
        log.write(_json_line(row))
        self.listener({"event": "step", "num_steps": num_steps, **row})

    def _evaluate(self, model: torch.nn.Module, valid: list[Example], training: Training) -> None:
        start = time.perf_counter()
        with self.meter.phase("evaluate"):
            rows = score(model, valid, self.spec.train.micro_batch_tokens, padding_id(self.tokenizer), self.where)
        evaluation = summarise(rows, training.num_steps)
        training.evaluate_seconds += time.perf_counter() - start
        if not math.isfinite(evaluation.nll):
            raise DivergedError(f"step {training.num_steps}: loss on valid is {evaluation.nll}")
        best = next((e for e in training.evaluations if e.step == training.selected_step), None)
        training.evaluations.append(evaluation)
        if self.spec.checkpoint == "last" or best is None or takes_over(training.evaluations, best):
            training.selected_step, training.valid_rows = evaluation.step, rows
            learned = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
            with self.meter.phase("save"):  # on disk: a copy in memory would count as what full fine-tuning needs
                save_file(learned, self.folder / SELECTED)

    def _forgetting_curve(self, num_steps: int, valid: list[Example]) -> ForgettingCurve:
        points = self.spec.forgetting_points
        steps = frozenset(round(num_steps * i / points) for i in range(points + 1)) if points else frozenset()
        return ForgettingCurve(steps, valid, self._examples("general") if points else [])

    def _measure(self, curve: ForgettingCurve, model: torch.nn.Module, training: Training) -> None:
        start = time.perf_counter()
        spec, padding = self.spec, padding_id(self.tokenizer)
        with self.meter.phase("evaluate"):
            curve.measure(
                training.num_steps, lambda rows: score(model, rows, spec.train.micro_batch_tokens, padding, self.where)
            )
        training.evaluate_seconds += time.perf_counter() - start

    def _save(self, model: torch.nn.Module, method: Method) -> int:
        weights = self.folder / "weights"
        method.save(model, weights)
        saved_bytes = sum(path.stat().st_size for path in files_below(weights))
        if self.data.chat_template is not None:
            self.tokenizer.chat_template = self.data.chat_template
        self.tokenizer.save_pretrained(weights)
        return saved_bytes

    def _score(self, model: torch.nn.Module, training: Training) -> tuple[Sample, ...]:
        """Write scores.parquet: valid as the selection saw it, test and general text in fp32.

        A trial, whose model was never stored, scores general text alone, in the precision of training.
        """
        spec, padding = self.spec, padding_id(self.tokenizer)
        is_trial = spec.role in ("short", "tune")
        splits = [name for name in spec.score_splits if not (is_trial or (name == "valid" and training.valid_rows))]
        where: tuple[Device, Precision] = self.where if is_trial else (spec.device, "fp32")
        rows = [{"split": "valid", **row} for row in training.valid_rows]
        samples: tuple[Sample, ...] = ()
        for split in [*splits, *(["general"] if spec.inputs.general else [])]:
            examples = self._examples(split)
            found = score(model, examples, spec.train.micro_batch_tokens, padding, where)
            if split == "test":
                found, samples = self._answers(model, examples, found)
            rows += [{"split": split, **row} for row in found]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCORES_SCHEMA), self.folder / "scores.parquet")
        return samples

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
        max_tokens = spec.train.micro_batch_tokens
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
            samples=samples,
            usage=usage,
            environment=describe_environment(self.spec.device),
        )
        Ledger(self.folder.parent.parent).finish(record)
        return record

    def _examples(self, split: str) -> list[Example]:
        return read_examples(self.data_folder / f"{split}.parquet")


def _json_line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"
