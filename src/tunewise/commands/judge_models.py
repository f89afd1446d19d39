"""Score models that others trained, and judge them as logs are judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tunewise.commands.compare import compare
from tunewise.desk.judge.report import build_judgment
from tunewise.desk.judge.view import JudgeReport
from tunewise.desk.metrics.metrics import primary_metric
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.study.state import StudyState
from tunewise.errors import SpecError, StudyError
from tunewise.inputs.logs.find import with_labels
from tunewise.inputs.logs.log import RunLog, TaskLog
from tunewise.inputs.training import training_of
from tunewise.records import events
from tunewise.records.events import Event, Listener, unheard
from tunewise.spec import StudySpec
from tunewise.spec.reading import parse_study, resolve_paths, set_key
from tunewise.storage.ledger import Ledger

FEW_ROWS = 8  # of the training and validation sets that a study has and that these runs do not need


@dataclass(frozen=True)
class Asked:
    """Models to score: a folder for every run of full and of each arm, on the rows of one test file."""

    model: str
    data: str
    arms: Mapping[str, Sequence[Path]]  # full among them
    settings: Mapping[str, Any]  # keys of the study that change how rows are read


def judge_models(asked: Asked, out: Path, margin: str | None, listener: Listener = unheard) -> JudgeReport:
    """Score every model as an `existing` arm of one study in `out`, then judge the scores. Resumes.

    The metric is that of the study's task. Raises UserError as `compare` does.
    """
    study, places = _study(asked)

    def tell(event: Event) -> None:
        if not isinstance(event, events.Findings | events.Checked):  # on a study; the judgment has findings of its own
            listener(event)

    done = compare(study, out, tell)
    if done.unfinished:
        raise StudyError(f"not every model was scored: {'; '.join(done.unfinished)}. Run the same command again.")
    state = StudyState.read(Ledger.open(out))
    _require_different(places, state)
    metric = primary_metric(state.data.task, state.study.primary)
    runs = {
        arm: with_labels(
            [
                RunLog(
                    name=str(path),
                    seed=None,
                    tasks={metric: _log(state.scores(state.confirmed[places[arm, path]])[0], metric, path)},
                    model=str(path),
                    training=training_of(path),
                )
                for path in paths
            ],
            arm,
        )
        for arm, paths in asked.arms.items()
    }
    return build_judgment(runs, margin)


def _study(asked: Asked) -> tuple[StudySpec, dict[tuple[str, Path], str]]:
    """A study that scores every model once, and the name of each model's arm in it."""
    places: dict[tuple[str, Path], str] = {}
    for arm, paths in asked.arms.items():
        for number, path in enumerate(paths, start=1):
            if not path.is_dir():
                raise SpecError(f"{arm}: no such folder: {path}. Give the folder of an adapter or a model.")
            places[arm, path] = f"{arm}-{number}"
    content: dict[str, Any] = {
        "name": "judged",
        "model": asked.model,
        "data": {
            **dict.fromkeys(("train", "valid", "test"), asked.data),
            "limit": {"train": FEW_ROWS, "valid": FEW_ROWS},
            "duplicates": "keep",  # the same file three times, of which only the test set counts
        },
        "arms": {name: {"method": "existing", "path": str(path.resolve())} for (_, path), name in places.items()},
        "forgetting": {"tokens": 0},
        "samples": {"count": 0},
    }
    for key, value in asked.settings.items():
        set_key(content, key, value)
    return resolve_paths(parse_study(content, "command line"), Path()), places


def _require_different(places: Mapping[tuple[str, Path], str], state: StudyState) -> None:
    """Raise SpecError if two folders hold the same weights."""
    seen: dict[str | None, Path] = {}
    for (_, path), name in places.items():
        weights = state.data.weights_of(name, 0)
        if weights in seen:
            raise SpecError(f"{seen[weights]} and {path} hold the same weights. Name every model once.")
        seen[weights] = path


def _log(scores: Scores, metric: str, path: Path) -> TaskLog:
    """The scores of one model as a log of its only task."""
    is_accuracy = metric == "accuracy"
    right = (scores.labels == scores.predictions).astype(np.float64)
    ids = pa.array(scores.examples.tolist(), pa.string())
    return TaskLog(
        path=path,
        task=metric,
        metric=metric,
        higher_is_better=is_accuracy,
        ids=ids,
        numerators=right if is_accuracy else scores.nll,
        weights=None if is_accuracy else scores.num_tokens,
        per=None if is_accuracy else "token",
        units=pa.array(scores.units.tolist(), pa.string()),
        prompts=ids,  # all were asked the rows of one file
        rows=np.arange(len(scores.examples)),
        has_texts=False,
    )
