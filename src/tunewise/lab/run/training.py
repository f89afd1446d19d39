"""Training stage of a run: the loop, its measurements, its checkpoints, and its end."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import torch
from transformers import set_seed

from tunewise.lab.data.batching import Batch, Example, step_rows
from tunewise.lab.evaluate.forgetting import ForgettingCurve
from tunewise.lab.evaluate.score import summarise
from tunewise.lab.methods import Method, build_method, describe
from tunewise.lab.models.load import Base
from tunewise.lab.placement import put
from tunewise.lab.run.answers import evaluation
from tunewise.lab.run.context import ReadyModel, RunContext
from tunewise.lab.train.begin import make_trainable
from tunewise.lab.train.checkpoint import Checkpoints
from tunewise.lab.train.gradients import GradientWatch
from tunewise.lab.train.loop import DivergedError, Loop, Step, train
from tunewise.lab.train.optim import LearningRates, describe_groups, rate_factors
from tunewise.lab.train.state import TrainingState
from tunewise.lab.train.step_log import StepLog
from tunewise.lab.train.updates import UpdateWatch
from tunewise.records import Evaluation, events
from tunewise.records.selection import takes_over
from tunewise.spec import forgetting_steps


def adapt(run: RunContext, base: Base, checkpoints: Checkpoints) -> "TrainingSession":
    """The base, prepared for training by the run's method; frozen weights are stored according to the precision."""
    spec = run.spec
    assert spec.learning_rate is not None, "a training arm has a learning rate"
    examples, valid = run.examples("train"), run.examples("valid")
    num_steps = run.num_steps
    method = build_method(spec.method, spec.task, num_steps)
    ready = run.ready(method.prepare(base))
    model = ready.model
    rates = LearningRates(spec.learning_rate, spec.head_learning_rate)
    optimizer = make_trainable((model, method), base.head_modules, spec.train, rates, run.compute)
    run.placement.draw_apart(spec.seed)
    run.training.tuned = describe(model, method).replace(parameter_groups=describe_groups(optimizer))
    general = run.examples("general") if spec.forgetting_points else []
    curve = ForgettingCurve(forgetting_steps(spec.forgetting_points, num_steps), valid, general)
    state = TrainingState(
        model=model,
        optimizer=optimizer,
        method=method,
        watch=UpdateWatch(optimizer),
        forgetting=curve.rows,
        training=run.training,
        log=StepLog(run.folder / "steps.jsonl"),
        meter=run.meter,
    )
    return TrainingSession(run, checkpoints, ready, state, GradientWatch(model, method), curve, examples)


@dataclass(frozen=True)
class TrainingSession:
    """Training of one adapted model, from its first step or its last checkpoint to the end."""

    run: RunContext
    checkpoints: Checkpoints
    ready: ReadyModel
    state: TrainingState
    gradients: GradientWatch
    curve: ForgettingCurve
    examples: Sequence[Example]  # of train

    @property
    def method(self) -> Method:
        """Method that prepared the model, which also saves it."""
        return self.state.method

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.run.num_steps

    def train(self) -> None:
        """Train to the last step, or until a loss is not a number. Raises StoppedError if asked to stop."""
        training = self.run.training
        self.checkpoints.restore(self.state)
        self.run.budget.lower(training.micro_batch_tokens)
        try:
            self._take_steps()
        except DivergedError as error:
            training.diverged = str(error)
        self.gradients.finish(training.warn)
        self.state.log.close()
        self.curve.write(self.run.folder / "forgetting.parquet")
        training.updates_kept = self.state.watch.median()

    def selected(self) -> ReadyModel:
        """The model with the weights selected by the checkpoint rule; the untrained one if there are none."""
        selected = self.run.training.selected_file
        if selected is None:
            set_seed(self.run.spec.seed)
            return self.run.ready(self.method.prepare(self.run.load_base()))
        found, learned = self.checkpoints.selected(selected), self.state.learned
        put(self.ready.model, ((learned[name], tensor) for name, tensor in found.items()))
        return self.ready

    def _take_steps(self) -> None:
        """Take the remaining steps.

        Raises DivergedError if the loss or gradient of a step, or the validation loss, is not finite.
        """
        training = self.run.training
        evaluate_at = self.run.spec.train.evaluation_steps(self.num_steps)
        if not training.num_steps:
            self._measure_forgetting()
        for step in train(self.ready.model, self._batches(training.num_steps), self._loop()):
            self._note(step)
            evaluated = self._evaluate() if step.step in evaluate_at else None
            self._measure_forgetting(evaluated)
            self.checkpoints.after_step(self.state)

    def _loop(self) -> Loop:
        spec = self.run.spec.train
        return Loop(
            optimizer=self.state.optimizer,
            rate_factors=rate_factors(spec, self.num_steps),
            clip_norm=spec.clip_norm,
            compute=self.run.compute,
            after_step=self._after_step,
            first_step=self.run.training.num_steps,
            recut=self._recut,
        )

    def _batches(self, num_done: int) -> Iterator[list[Batch]]:
        spec = self.run.spec
        rows_of_steps = step_rows(len(self.examples), spec.train.batch_size, self.num_steps, spec.seed)
        for rows in islice(rows_of_steps, num_done, None):
            yield self.ready.batches(self.examples, rows)

    def _recut(self, batches: Sequence[Batch]) -> list[Batch] | None:
        if not self.run.budget.lower_below(batches):
            return None
        return self.ready.batches(self.examples, [row for batch in batches for row in batch.rows])

    def _after_step(self, model: torch.nn.Module, index: int) -> None:
        self.gradients.look()
        self.state.watch.compare(index + 1)
        self.method.after_step(model, index)
        self.state.watch.remember(index + 1)

    def _note(self, step: Step) -> None:
        training = self.run.training
        training.num_steps = step.step
        training.micro_batch_tokens = self.run.budget.halved_to
        training.train_seconds += step.seconds
        training.num_tokens += step.num_tokens
        training.num_supervised_tokens += step.num_targets
        row = asdict(step)
        self.state.log.write(json.dumps(row))
        self.run.listener(events.Step(num_steps=self.num_steps, **row))

    def _evaluate(self) -> Evaluation:
        """Record the validation loss; store the weights if the checkpoint rule selects them."""
        training = self.run.training
        with self.run.evaluation():
            rows = self.ready.score(self.curve.valid, self.run.compute)
            if not math.isfinite(nll := summarise(rows, training.num_steps).nll):
                raise DivergedError(f"step {training.num_steps}: validation loss is {nll}")
            found = evaluation(self.run, self.ready.model, rows, self.run.compute)
        best = next((e for e in training.evaluations if e.step == training.selected_step), None)
        training.evaluations.append(found)
        if self.run.spec.checkpoint == "last" or best is None or takes_over(training.evaluations, best):
            training.valid_rows = rows
            self.checkpoints.select(self.state)
        return found

    def _measure_forgetting(self, evaluated: Evaluation | None = None) -> None:
        step = self.run.training.num_steps
        if step not in self.curve.steps:
            return  # ending a phase returns freed memory, which the next step would have to request again
        with self.run.evaluation():
            self.curve.measure(step, lambda rows: self.ready.score(rows, self.run.compute), evaluated)
