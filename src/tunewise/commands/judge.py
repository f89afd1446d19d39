"""Judge logs of runs that others trained and evaluated."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunewise.desk.judge.report import build_judgment
from tunewise.desk.judge.verdicts import FULL
from tunewise.desk.judge.view import JudgeReport
from tunewise.errors import SpecError
from tunewise.inputs.logs.find import read_arm
from tunewise.spec import ARM_NAME
from tunewise.storage.disk import make_folder, write_atomically
from tunewise.storage.files import read_text
from tunewise.text.suggest import listed

PAGE, PLAIN, SCORED = "judge.html", "judge.json", "scored"
OWN = '"tunewise_version"'  # one of the first keys of our judge.json


def judge(
    arms: Mapping[str, Sequence[Path]],
    *,
    margin: str | None = None,
    metrics: Sequence[str] = (),
    unit: str | None = None,
    lower_is_better: bool = False,
) -> JudgeReport:
    """The report on per-sample logs: for `full` and each other arm, a file or folder for every run.

    `metrics`: the first of them that a task has is judged; (): the task's own first one. `unit`: a column whose equal
    values mark items that belong together. Raises DataError or SpecError.
    """
    runs = {arm: read_arm(paths, arm, metrics, unit, lower_is_better) for arm, paths in arms.items()}
    return build_judgment(runs, margin)


def require_own(folder: Path) -> None:
    """Raise SpecError if a folder holds anything but an earlier judgment."""
    names = sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []
    is_whole = PLAIN in names and OWN in read_text(folder / PLAIN)[:200]
    if not {*names} <= ({PAGE, PLAIN, SCORED} if is_whole else {SCORED}):
        raise SpecError(
            f"--out {folder} holds other files than those of a judgment: {listed(names)}. Name a new folder."
        )


def write_judgment(report: JudgeReport, folder: Path) -> None:
    """Write judge.json and judge.html into a folder. Raises StudyError."""
    from tunewise.desk.judge.page import judge_page  # loads jinja2, which reading does not need

    page = judge_page(report)
    make_folder(folder)
    write_atomically(folder / PLAIN, report.model_dump_json(indent=1))
    write_atomically(folder / PAGE, page)


def expanded(paths: Sequence[Path]) -> list[Path]:
    """The paths, a pattern such as runs/lora-* replaced by what it matches: no shell expands it after `lora=`."""
    found: list[Path] = []
    for path in paths:
        root = Path(path.anchor)
        matching = sorted(root.glob(str(path.relative_to(root)))) if "*" in str(path) and not path.exists() else []
        found += matching or [path]
    return found


def arms_of(full: Sequence[Path], texts: Sequence[str]) -> dict[str, list[Path]]:
    """Turn [f] and ['lora=a', 'lora=b'] into {'full': [f], 'lora': [a, b]}. Raises SpecError."""
    found: dict[str, list[Path]] = {FULL: expanded(full)}
    for text in texts:
        name, _, path = text.partition("=")
        if not path:
            raise SpecError(f"--arm needs NAME=PATH, for example lora=runs/lora, but got '{text}'.")
        if not re.fullmatch(ARM_NAME, name) or name == FULL:
            raise SpecError(f"--arm {text}: '{name}' is not the name of an arm. Write letters, digits, - and _.")
        found.setdefault(name, []).extend(expanded([Path(path)]))
    if not full or len(found) < 2:
        raise SpecError("nothing to judge. Give what was fully fine-tuned and another arm: --full DIR --arm lora=DIR.")
    return found
