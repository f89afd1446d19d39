"""Last stage of a run: its cost and results, stored as a record."""

from datetime import UTC, datetime

from tunewise.lab.machine import OthersMeter, describe_environment
from tunewise.lab.run.context import RunContext
from tunewise.records import Memory, RunRecord, Sample, Usage
from tunewise.storage.lease import Lease
from tunewise.storage.ledger import Ledger


def usage_of(run: RunContext, others: OthersMeter, started: datetime) -> Usage:
    """Time, tokens and memory of a run that ends now."""
    training = run.training
    load, evaluate = _largest_memory(run, "load"), _largest_memory(run, "evaluate")
    assert load is not None, "every run loads a model"
    assert evaluate is not None, "every run scores it"
    return Usage(
        load_seconds=training.load_seconds,
        train_seconds=training.train_seconds if training.num_steps else None,
        evaluate_seconds=training.evaluate_seconds,
        num_tokens=training.num_tokens,
        num_supervised_tokens=training.num_supervised_tokens,
        load_memory=load,
        train_memory=_largest_memory(run, "train"),
        evaluate_memory=evaluate,
        saved_bytes=training.saved_bytes,
        others_share=others.share(run.placement),
        num_continued=training.num_continued,
        micro_batch_tokens=run.budget.halved_to,
        started=started,
        ended=datetime.now(UTC),
    )


def _largest_memory(run: RunContext, phase: str) -> Memory | None:
    """Memory of the process that needed most in this phase; None: there was no such phase."""
    own = run.meter.memory(phase)
    found = [Memory(**of) for of in run.placement.gathered(own and own.model_dump()) if of]
    return max(found, key=lambda memory: memory.peak_bytes or 0, default=None)


def store_record(run: RunContext, samples: tuple[Sample, ...], usage: Usage, lease: Lease | None) -> RunRecord:
    """Record of a run, stored by the first of its processes in the ledger of its study.

    Raises LostLeaseError if another process makes the run.
    """
    training = run.training
    record = RunRecord(
        run_id=run.spec.run_id,
        spec=run.spec,
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
        environment=describe_environment(run.spec.device),
    )
    if run.placement.is_first:
        Ledger(run.folder.parent.parent).finish(record, lease)
    return record
