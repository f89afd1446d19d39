"""Specs of the runs that a study can request, with their shared settings in one place."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from tunewise.records import DataSummary, RunRecord
from tunewise.records.data import num_steps
from tunewise.spec import (
    BASES,
    NUMERICS,
    BaseMethod,
    Method,
    Role,
    RunSpec,
    TrainSpec,
)
from tunewise.spec.resolved import ResolvedStudy

OLDEST = datetime.min.replace(tzinfo=UTC)
SHORT_TRIAL_SHARE = 0.15  # of a run's steps


def short_schedule(study: ResolvedStudy, data: DataSummary) -> TrainSpec:
    """The training of a short trial of the study."""
    return short_training(study.train, num_steps(study, data))


def short_training(train: TrainSpec, num_steps: int) -> TrainSpec:
    """A complete schedule, with warm-up and decay, on 15% of the `num_steps` of a run."""
    return train.replace(max_steps=math.ceil(SHORT_TRIAL_SHARE * num_steps))


def changed_since(run: RunSpec, data: DataSummary) -> tuple[str, ...]:
    """Inputs and settings of a run that would differ today; (): none."""
    then, now = run.inputs, data.inputs
    names = [name for name in ("data", "base", "tokenizer") if getattr(then, name) != getattr(now, name)]
    if then.general and then.general != now.general:
        names.append("general text")
    versions = {library: (then.versions.get(library), version) for library, version in now.versions.items()}
    names += [f"{library} {old} (now {new})" for library, (old, new) in versions.items() if old != new]
    if run.numerics != NUMERICS:
        names.append(f"numerics {run.numerics} (now {NUMERICS})")
    for name in ("threads", "device", "precision"):
        if getattr(run, name) != getattr(data, name):
            names.append(f"{name} {getattr(run, name)} (now {getattr(data, name)})")
    return tuple(names)


class Drafts:
    """Run specs of one study, with their shared settings in one place."""

    def __init__(self, study: ResolvedStudy, data: DataSummary) -> None:
        self.study, self.data = study, data

    def match(self, record: RunRecord) -> RunRecord | None:
        """The record under today's name of its arm; None if no arm of the study makes this run.

        With `accept_stale` also a record with another base, other libraries, threads or numerics, which it keeps.
        """
        old = record.spec
        identity = self.identity(old) if self.study.accept_stale else record.run_id
        if old.role == "confirm" and old.seed not in self.study.confirmation_seeds():
            return None
        for arm in self.study.arms if old.role != "base" else ("base",):
            if old.role == "base":
                specs: tuple[RunSpec, ...] = self.bases()
            elif old.role != "confirm":
                specs = self.tune(arm, old.learning_rate, old.head_learning_rate, old.role)
            else:
                specs = (self.confirm(arm, old.learning_rate, old.head_learning_rate, old.seed),)
            if found := next((spec for spec in specs if self.identity(spec) == identity), None):
                return record.replace(spec=found.replace(inputs=old.inputs, numerics=old.numerics, threads=old.threads))
        return None

    def identity(self, spec: RunSpec) -> str:
        """A key shared by interchangeable runs: the run id, or fewer fields with `accept_stale`.

        Other data, another tokenizer or other general text always make another run, because scores are not comparable.
        """
        if not self.study.accept_stale:
            return spec.run_id
        return spec.replace(inputs=spec.inputs.replace(base="", versions={}), numerics=0, threads=0).run_id

    def one_each(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """One record of each set of interchangeable ones: the least changed, then the newest."""
        ages = {r.run_id: r.usage.ended if r.usage and r.usage.ended else OLDEST for r in records}
        ordered = sorted(records, key=lambda r: (-len(changed_since(r.spec, self.data)), ages[r.run_id]))
        chosen = {self.identity(record.spec): record.run_id for record in ordered}
        return [record for record in records if chosen[self.identity(record.spec)] == record.run_id]

    def bases(self) -> tuple[RunSpec, ...]:
        """The scorings of the untouched base: whole, and as the arms store it."""
        seed = self.study.confirmation_seeds()[0]
        return tuple(
            self._run(BASES[kind], "base", BaseMethod(base=kind), seed, None, None) for kind in self.study.bases
        )

    def tune(self, arm: str, rate: float | None, head_rate: float | None, role: Role) -> tuple[RunSpec, ...]:
        """A learning-rate trial, a run for each search seed; of full length, or `short`: on a part of the steps."""
        seeds, method = self.study.search_seeds(), self.study.arms[arm]
        runs = tuple(self._run(arm, role, method, seed, rate, head_rate) for seed in seeds)
        return runs if role == "short" else tuple(run.replace(ranks=method.truncations) for run in runs)

    def confirm(self, arm: str, rate: float | None, head_rate: float | None, seed: int) -> RunSpec:
        """A confirmation run; an `existing` arm scores the folder of the seed, or has one run, whatever the seed."""
        method, seeds = self.study.arms[arm], self.study.confirmation_seeds()
        if not method.has_seeds:
            seed = seeds[0]
        existing = self.study.existing_arms.get(arm)
        if existing is None:
            return self._run(arm, "confirm", method, seed, rate, head_rate)
        place = seeds.index(seed)
        run = self._run(arm, "confirm", existing.of_seed(place), seed, rate, head_rate)
        return run.replace(inputs=run.inputs.replace(existing=self.data.weights_of(arm, place)))

    def _run(  # noqa: PLR0913 - the one place where a run spec is put together
        self, arm: str, role: Role, method: Method, seed: int, rate: float | None, head_rate: float | None
    ) -> RunSpec:
        study, data = self.study, self.data
        method = method.as_trained(is_confirmed=role == "confirm")
        if arm == study.head_arm or not data.num_new_parameters:
            head_rate = rate if data.num_new_parameters else None
        is_trial = role in ("short", "tune")
        shows_samples = not is_trial and seed == study.confirmation_seeds()[0]
        general = None if role == "short" else data.inputs.general
        return RunSpec(
            arm=arm,
            role=role,
            model=study.model,
            trust_remote_code=study.trust_remote_code,
            task=data.task,
            method=method,
            train=short_schedule(study, data) if role == "short" else study.train,
            learning_rate=rate,
            head_learning_rate=head_rate if rate is not None else None,
            seed=seed,
            checkpoint=study.checkpoint,
            score_splits=("valid",) if is_trial else ("valid", "test"),
            samples=study.samples if shows_samples else study.samples.replace(count=0),
            metrics=() if is_trial else study.metrics,
            forgetting_points=study.forgetting.points if role == "confirm" and general and rate is not None else 0,
            device=data.device,
            precision=data.precision,
            threads=data.threads,
            devices=study.machine.devices_per_run,
            attention=study.machine.attention,
            select_by=study.selecting_metric if rate is not None or role == "base" else None,
            scoring="exact" if is_trial else study.machine.scoring,
            resample=study.data.resample and role == "confirm" and rate is not None,
            inputs=data.inputs.replace(general=general),
        )
