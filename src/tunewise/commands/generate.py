"""Answers of the base and the tuned models of a study to one prompt."""

from pathlib import Path

from tunewise.errors import StudyError, TunewiseError
from tunewise.storage.ledger import Ledger

TRIES = 3  # attempts to read the deliverables while another command replaces them


def answers(folder: Path | str, prompt: str, max_new_tokens: int, *, trust_remote_code: bool = False) -> dict[str, str]:
    """Answers of the base and every deliverable of a study to `prompt` (classification: the label).

    If another command replaces a deliverable meanwhile, everything is read again. Raises UserError, also for a study
    that runs code of its model without `trust_remote_code`: the folder may be somebody else's.
    """
    ledger = Ledger.open(Path(folder))
    if ledger.study().trust_remote_code and not trust_remote_code:
        raise StudyError(
            f"the study in {folder} runs code that its model {ledger.study().model} brings (trust_remote_code). "
            "If you trust that code, add --trust-remote-code."
        )
    for _ in range(TRIES):
        before, failure = ledger.deliverables(), None
        try:
            found = _answers(ledger, prompt, max_new_tokens)
        except (TunewiseError, OSError, ValueError) as error:  # raised by libraries for an incomplete folder
            failure = error
        if ledger.deliverables() != before:
            continue
        if failure is not None:
            raise failure
        return found
    raise StudyError(
        f"the tuned models in {folder} are being replaced. Wait for the other command to finish, then retry."
    )


def _answers(ledger: Ledger, prompt: str, max_new_tokens: int) -> dict[str, str]:
    from tunewise.lab.evaluate.answer import answer  # imports torch, which only this function needs here

    study, data = ledger.study(), ledger.data_summary()
    folders = {arm: ledger.best_folder(arm) for arm in study.arms if ledger.best_folder(arm).is_dir()}
    records = ledger.records() if folders else []
    for arm, place in folders.items():
        if ledger.writer(arm, records) is None:
            raise StudyError(
                f"{place} was changed after its run wrote it. Run `tunewise compare` again to make it anew."
            )
    if not folders:
        raise StudyError(
            f"{ledger.folder} contains no tuned models. `tunewise compare` makes them (with `keep: best`)."
        )
    return answer(study, data, folders, prompt, max_new_tokens)
