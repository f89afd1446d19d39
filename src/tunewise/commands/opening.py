"""Checks before work in a study folder: it must belong to a study, and finished runs must not be lost."""

from collections.abc import Sequence
from pathlib import Path

from tunewise.desk.protocol.resolve import settled_with
from tunewise.desk.study.stale import find_stale, stale_sentence
from tunewise.errors import SpecError, StudyError
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import DEFAULT_LOOKS, StudySpec
from tunewise.spec.resolved import ResolvedStudy
from tunewise.storage.files import read_text
from tunewise.storage.ledger import DECLARATIONS, DEFAULT_ROOT, Ledger
from tunewise.text.numbers import duration


def begin(study: StudySpec, out: Path | str | None) -> Ledger:
    """The study folder, created if missing. Raises StudyError if it is not a study's, or holds a link.

    study.yaml is written later, once the study is known to be valid, so as not to spoil the file of a finished one.
    """
    if out is not None and not str(out):
        raise StudyError("--out is empty. Give the name of the study folder, or remove --out.")
    ledger = Ledger(DEFAULT_ROOT / study.name if out is None else Path(out))
    named = (study.data.train, study.data.valid, study.data.test, study.forgetting.text)
    ledger.create([source for source in named if source])
    return ledger


def require_one_set(study: StudySpec) -> None:
    """Raise SpecError if the study has several datasets."""
    if study.sets:
        raise SpecError(
            f"data.sets: this command works on one dataset, and the study has {len(study.sets)} ("
            f"{', '.join(study.sets)}). Write the keys of one of them in `data`, or run `tunewise compare`."
        )


def of_its_time(study: StudySpec, ledger: Ledger) -> StudySpec:
    """The study with the protocol that its folder declared, which stays what it was when a default changes.

    Raises StudyError if the declaration was altered.
    """
    declared = ledger.declared()
    if declared is None or "protocol" in declared or study.protocol == "fixed":
        return study
    looks = declared["looks"] if study.looks == DEFAULT_LOOKS["adaptive"] else study.looks
    return study.replace(protocol="fixed", looks=looks)


def require_no_stale(study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord]) -> None:
    """Raise StudyError if finished runs would be repeated; only `--again` allows that."""
    # micro-batches of `auto` keep their size: the plan that determines it takes time
    for tokens in {record.spec.train.micro_batch_tokens for record in records}:
        if stale := find_stale(settled_with(study, tokens), data, records):
            raise StudyError(stale_sentence(stale, duration(stale.seconds)))


def require_declarations(ledger: Ledger, records: Sequence[RunRecord]) -> None:
    """Raise StudyError if arms were scored on test and the declaration made before is gone."""
    scored = [record for record in records if record.spec.role == "confirm"]
    if scored and ledger.declared() is None:
        raise StudyError(
            f"{ledger.folder / DECLARATIONS} is missing, although {len(scored)} runs were scored "
            "on test data. What the "
            "study declared before is not known. Restore the file, or start in another folder with --out."
        )


def load_data(ledger: Ledger, key: str) -> DataSummary:
    """Summary of the data prepared under `key`."""
    return DataSummary.model_validate_json(read_text(ledger.data_folder(key) / "data.json"))
