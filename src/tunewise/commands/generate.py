"""Let the base and the tuned models of a study answer side by side."""

from pathlib import Path

from tunewise.errors import StudyError, TunewiseError
from tunewise.storage.ledger import Ledger

TRIES = 3  # to read the deliverables while another command replaces them


def answers(folder: Path | str, prompt: str, max_new_tokens: int, *, trust_remote_code: bool = False) -> dict[str, str]:
    """What the base and every deliverable of a study answer to `prompt` (classification: the label).

    Where another command replaces a deliverable meanwhile, all is read again. Raises UserError, also for a study that
    runs code of its model and is not trusted by `trust_remote_code`: the folder may be somebody else's.
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
        except (TunewiseError, OSError, ValueError) as error:  # of half a folder, libraries say all kinds of things
            failure = error
        if ledger.deliverables() != before:
            continue
        if failure is not None:
            raise failure
        return found
    raise StudyError(f"the tuned models in {folder} are being replaced. Wait for the command that does it, and retry.")


def _answers(ledger: Ledger, prompt: str, max_new_tokens: int) -> dict[str, str]:
    from tunewise.lab.evaluate.answer import answer  # torch, which only this function needs in this process

    study, data = ledger.study(), ledger.data_summary()
    folders = {arm: ledger.best_folder(arm) for arm in study.arms if ledger.best_folder(arm).is_dir()}
    records = ledger.records() if folders else []
    for arm, place in folders.items():
        if ledger.writer(arm, records) is None:
            raise StudyError(f"{place} is not what its run wrote. Give `tunewise compare` again: it is made anew.")
    if not folders:
        raise StudyError(f"{ledger.folder} holds no tuned models. `tunewise compare` makes them (with `keep: best`).")
    return answer(study, data, folders, prompt, max_new_tokens)
