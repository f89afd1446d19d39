"""Delivery of the tuned models of a study."""

from collections.abc import Sequence

from tunewise.desk.protocol import confirmations
from tunewise.desk.protocol import trials as trials_module
from tunewise.desk.protocol.drafts import changed_since
from tunewise.desk.report.pages.card import write_card
from tunewise.desk.study.state import StudyState
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import RunSpec
from tunewise.spec.resolved import ResolvedStudy
from tunewise.storage.ledger import Ledger


def disk_needed(study: ResolvedStudy, data: DataSummary) -> int:
    """Most bytes of tuned weights on disk at once, plus as much again for one being written."""
    sizes = [
        4 * (tuned.trainable_parameters if study.arms[name].method not in ("full", "head") else tuned.total_parameters)
        for name, tuned in data.arms.items()
        if name in study.arms
    ]
    kept = sum(sizes) * (study.looks[-1] if study.keep == "all" else 1)
    return kept + 2 * max(sizes, default=0)


def undelivered(ledger: Ledger, state: StudyState) -> list[RunSpec]:
    """Runs whose weights should be delivered but are gone or damaged: they are made again."""
    if state.study.keep == "none":
        return []
    best = {arm: _best(runs) for arm, runs in _deliverable_runs(state.study, state.records).items()}
    return [
        record.spec
        for arm, record in best.items()
        # an accepted stale run cannot be reproduced
        if not ledger.has_weights(arm, record) and not changed_since(record.spec, state.data)
    ]


def tidy(ledger: Ledger, study: ResolvedStudy, records: Sequence[RunRecord]) -> None:
    """Delete the weights that `keep` does not keep."""
    if study.keep == "all":
        return
    for runs in _deliverable_runs(study, records).values():
        best = _best(runs)
        for record in runs:
            if study.keep == "none" or record is not best:
                ledger.drop_weights(record.run_id)


def deliver(ledger: Ledger, study: ResolvedStudy, records: Sequence[RunRecord]) -> None:
    """Put each arm's confirmed run with the best validation score into best/<arm>, with its model card."""
    if study.keep == "none":
        return
    for arm, runs in _deliverable_runs(study, records).items():
        record = _best(runs)
        ledger.promote(arm, record.run_id, keep_in_run=study.keep == "all")
        write_card(ledger, study, record)


def _deliverable_runs(study: ResolvedStudy, records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    chosen = confirmations.confirmed(study, records)
    return {arm: runs for arm, runs in chosen.items() if study.arms[arm].method != "existing" and runs}


def _best(runs: Sequence[RunRecord]) -> RunRecord:
    return min(runs, key=trials_module.selection_loss)
