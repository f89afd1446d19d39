"""Measurements of the runs in a study folder; every file is read once, on demand."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tunewise.desk.analysis.forgetting import Point, read_curve
from tunewise.desk.metrics.scores import Rows, Scores, StoredScores, read_scores
from tunewise.records import RunRecord
from tunewise.storage.ledger import Ledger

MOST_HELD = 4 * 2**20  # bytes of class probabilities of one run that stay in memory


@dataclass(frozen=True)
class RunFiles:
    """Scores, steps and curves of runs, cached and shared by the states of one study."""

    ledger: Ledger
    _scores: dict[tuple[str, str], Scores] = field(default_factory=dict, init=False, repr=False)
    _rows: dict[str, Rows] = field(default_factory=dict, init=False, repr=False)  # of the splits in _scores
    _steps: dict[str, list[dict[str, float]]] = field(default_factory=dict, init=False, repr=False)
    _curves: dict[str, list[Point]] = field(default_factory=dict, init=False, repr=False)

    def scores(self, runs: Iterable[RunRecord], split: str = "test") -> list[Scores]:
        """One Scores per run, in order. Raises StudyError if a file is not valid."""
        return [self._read(run.run_id, split) for run in runs]

    def _read(self, run_id: str, split: str) -> Scores:
        if (run_id, split) not in self._scores:
            read = partial(read_scores, self.ledger.scores_path(run_id), split, self._rows)
            scores = read()
            is_large = scores.class_log_probabilities.nbytes > MOST_HELD
            self._scores[run_id, split] = StoredScores(scores, read) if is_large else scores
        return self._scores[run_id, split]

    def steps(self, run: RunRecord) -> Sequence[Mapping[str, float]]:
        """The optimizer steps of a run; empty for a run that trains nothing."""
        if run.run_id not in self._steps:
            self._steps[run.run_id] = self.ledger.steps(run.run_id)
        return self._steps[run.run_id]

    def forgetting(self, run: RunRecord) -> list[Point]:
        """Measurements on general text during training of a run; empty: none."""
        if run.run_id not in self._curves:
            self._curves[run.run_id] = read_curve(self.ledger.forgetting_path(run.run_id))
        return self._curves[run.run_id]
