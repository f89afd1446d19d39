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

PAGE, PLAIN = "judge.html", "judge.json"


def judge(
    full: Sequence[Path],
    arms: Mapping[str, Sequence[Path]],
    *,
    margin: str | None = None,
    metrics: Sequence[str] = (),
    unit: str | None = None,
    lower_is_better: bool = False,
) -> JudgeReport:
    """The report on per-sample logs: a file or folder for every run of full and of each arm.

    `metrics`: the first of them that a task has is judged; (): the task's own first one. `unit`: a column whose equal
    values mark items that belong together. Raises SpecError or DataError.
    """
    if not full or not arms:
        raise SpecError(
            "nothing to judge. Give the logs of full fine-tuning and of another arm: --full DIR --arm lora=DIR."
        )
    for name in arms:
        if not re.fullmatch(ARM_NAME, name) or name == FULL:
            raise SpecError(f"--arm {name}=...: '{name}' is not the name of an arm. Write letters, digits, - and _.")
    runs = {
        arm: read_arm(expanded(paths), arm, metrics, unit, lower_is_better)
        for arm, paths in {FULL: full, **arms}.items()
    }
    return build_judgment(runs, margin)


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


def arms_of(texts: Sequence[str]) -> dict[str, list[Path]]:
    """Turn ['lora=a', 'lora=b'] into {'lora': [a, b]}. Raises SpecError."""
    found: dict[str, list[Path]] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not path:
            raise SpecError(f"--arm needs NAME=PATH, for example lora=runs/lora, but got '{text}'.")
        found.setdefault(name, []).append(Path(path))
    return found
