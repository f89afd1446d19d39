"""Scoring stage of a run: every split, adapters extracted from the update, and written answers."""

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Example
from tunewise.lab.evaluate.extract import extractions, find_change
from tunewise.lab.evaluate.score import require_finite
from tunewise.lab.evaluate.text_scores import written_columns
from tunewise.lab.evaluate.truncate import truncations
from tunewise.lab.run.answers import answers, evaluation
from tunewise.lab.run.context import ReadyModel, RunContext
from tunewise.records import SCORES_SCHEMA, SPECTRUM_SCHEMA, Sample, extracted_split, truncated_split
from tunewise.spec import TASKS, FullMethod
from tunewise.storage.disk import write_table

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Scoring:
    """Scoring of a run's final model."""

    run: RunContext
    final: ReadyModel

    def write(self) -> tuple[Sample, ...]:
        """Write scores.parquet; returns the sample answers.

        The validation set is scored as the selection saw it; test and general text in fp32. A trial, whose model was
        never stored, scores only general text, in the precision of training, as every run does with `scoring: stored`.
        """
        spec, training = self.run.spec, self.run.training
        is_trial = spec.role in ("short", "tune")
        splits = [name for name in spec.score_splits if not (is_trial or (name == "valid" and training.valid_rows))]
        is_rounded = is_trial or spec.scoring == "stored"
        compute = self.run.compute if is_rounded else replace(self.run.compute, precision="fp32")
        rows = _of_split("valid", training.valid_rows)
        if spec.ranks and training.valid_rows:
            rows += self._truncated()
        samples: tuple[Sample, ...] = ()
        for split in [*splits, *(["general"] if spec.inputs.general else [])]:
            examples = self.run.examples(split)
            found = require_finite(self.final.score(examples, compute), spec.model)
            if spec.role == "base" and split == "valid":  # what the gain of a trial is counted from
                training.evaluations.append(evaluation(self.run, self.final.model, found, compute))
            if split == "test":
                found, samples = self._answered(examples, found, compute)
            rows += _of_split(split, found)
        if isinstance(spec.method, FullMethod) and spec.method.extract and training.valid_rows:
            rows += self._extracted(spec.method)
        write_table(self.run.folder / "scores.parquet", pa.Table.from_pylist(rows, schema=SCORES_SCHEMA))
        return samples

    def _truncated(self) -> Rows:
        """Validation rows for every truncation of the trained adapter, in the precision of training."""
        run, valid, rows = self.run, self.run.examples("valid"), []
        scored: dict[tuple[int, ...], Rows] = {}  # with a small budget, spread ranks can equal uniform ones
        for cut_down in truncations(self.final.model, run.spec.ranks):
            ranks = tuple(cut_down.ranks.values())
            if ranks not in scored:
                scored[ranks] = self.final.score(valid, run.compute)
            if cut_down.spread:
                run.training.rank_patterns[cut_down.rank] = dict(cut_down.ranks)
            rows += _of_split(truncated_split("valid", cut_down.rank, cut_down.spread), scored[ranks])
        return rows

    def _extracted(self, method: FullMethod) -> Rows:
        """Validation rows for every adapter extracted from the update, in the precision of training.

        Writes spectrum.parquet.
        """
        run, valid, rows = self.run, self.run.examples("valid"), []
        with run.meter.phase("extract"):  # holds two models, which must not count in the peak of the evaluation
            base = run.load_base()
            ready = run.ready(base.model)
            change = find_change(self.final.model, base, method.extract)
            spectrum = pa.Table.from_pylist(list(change.modules), schema=SPECTRUM_SCHEMA)
            write_table(run.folder / "spectrum.parquet", spectrum)
            for adapter in extractions(self.final.model, base, change):
                found = ready.score(valid, run.compute)
                rows += _of_split(extracted_split("valid", adapter.targets, adapter.rank), found)
        return rows

    def _answered(self, examples: list[Example], rows: Rows, compute: Compute) -> tuple[Rows, tuple[Sample, ...]]:
        """Test rows, with generated text if metrics need it; and the first answers as samples."""
        spec = self.run.spec
        shown = examples[: spec.samples.count]
        if TASKS[spec.task].has_classes:
            outputs = [self.run.data.labels[row["prediction"]] for row in rows]
        else:
            with compute.autocast():
                written = answers(self.run, self.final.model, examples if spec.metrics else shown)
            outputs = [one.text for one in written]
        if spec.metrics:
            columns = written_columns(spec.metrics, examples, written)
            rows = [{**row, **of_row} for row, of_row in zip(rows, columns, strict=True)]
        samples = (
            Sample(example=example.example, prompt=example.prompt, output=output, reference=example.reference)
            for example, output in zip(shown, outputs, strict=False)
        )
        return rows, tuple(samples)


def _of_split(split: str, rows: Rows) -> Rows:
    return [{"split": split, **row} for row in rows]
