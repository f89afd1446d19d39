"""A study folder is opened for work: is it a study's, and would finished runs be lost?"""

from collections.abc import Sequence
from pathlib import Path

from tunewise.desk.protocol.resolve import settled_with
from tunewise.desk.study.stale import find_stale, stale_sentence
from tunewise.errors import StudyError
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import StudySpec
from tunewise.spec.resolved import ResolvedStudy
from tunewise.storage.files import read_text
from tunewise.storage.ledger import DECLARATIONS, DEFAULT_ROOT, Ledger
from tunewise.text.numbers import duration


def begin(study: StudySpec, out: Path | str | None) -> Ledger:
    """The study folder, made where it is missing. Raises StudyError where it is not a study's, or holds a link.

    study.yaml waits until the study is known to be sound, so as not to spoil a finished one's.
    """
    if out is not None and not str(out):
        raise StudyError("--out is empty. Give the name of the study folder, or leave --out away.")
    ledger = Ledger(DEFAULT_ROOT / study.name if out is None else Path(out))
    named = (study.data.train, study.data.valid, study.data.test, study.forgetting.text)
    ledger.create([source for source in named if source])
    return ledger


def require_no_stale(study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord]) -> None:
    """Raises StudyError where finished runs would be made again without anybody having asked for it."""
    # micro-batches of `auto` are what they were: the plan that tells them takes time
    for tokens in {record.spec.train.micro_batch_tokens for record in records}:
        if stale := find_stale(settled_with(study, tokens), data, records):
            raise StudyError(stale_sentence(stale, duration(stale.seconds)))


def require_declarations(ledger: Ledger, records: Sequence[RunRecord]) -> None:
    """Raises StudyError where arms were scored on test and what was declared before is gone."""
    scored = [record for record in records if record.spec.role == "confirm"]
    if scored and ledger.declared() is None:
        raise StudyError(
            f"{ledger.folder / DECLARATIONS} is gone, although {len(scored)} runs were scored on test data: what the "
            "study declared before is not known. Put the file back, or begin in another folder with --out."
        )


def load_data(ledger: Ledger, key: str) -> DataSummary:
    """The summary of the data prepared under `key`."""
    return DataSummary.model_validate_json(read_text(ledger.data_folder(key) / "data.json"))
