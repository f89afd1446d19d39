"""Plan, times and curves of a study, read on demand."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from tunewise.desk.analysis.company import same_company
from tunewise.desk.analysis.costs import TimedRun, usual_step
from tunewise.desk.analysis.curves import TimedCurve, ToQuality, to_quality
from tunewise.desk.analysis.forgetting import AtEqualQuality, equal_quality
from tunewise.desk.study.state import StudyState
from tunewise.records import RunRecord
from tunewise.records.plan import StudyPlan


@dataclass(frozen=True)
class Evidence:
    """A state of the study with what its runs' files contain."""

    state: StudyState
    plan: StudyPlan | None  # what the runs were expected to need; None: not planned

    @classmethod
    def of(cls, state: StudyState) -> "Evidence":
        """The evidence of a state, with the plan stored with its data. Raises StudyError if the plan was altered."""
        return cls(state, state.files.ledger.plan(state.data.key, state.searched))

    @cached_property
    def equal_quality(self) -> dict[str, AtEqualQuality]:
        """Forgetting at equal quality, for the arms in which it was measured during training."""
        return equal_quality(self.state.curves, self.state.full)

    @cached_property
    def to_quality(self) -> dict[str, ToQuality]:
        """Steps and seconds to a loss that every arm reaches; the head-only arm, which reaches little, is left out."""
        runs = {
            arm: [
                TimedCurve(points, usual_step(run.step_seconds))
                for points, run in zip(curves, self.timed(self.state.confirmed[arm]), strict=True)
            ]
            for arm, curves in self.state.loss_curves.items()
            if arm != self.state.study.reference_arm
        }
        return to_quality(runs)

    @cached_property
    def comparable(self) -> dict[str, list[RunRecord]]:
        """Confirmed runs of each arm whose times are comparable, because as many other runs shared the machine."""
        trained = {arm: runs for arm, runs in self.state.confirmed.items() if self.state.study.arms[arm].is_trained}
        return same_company(trained, self.state.records)

    def timed(self, runs: Iterable[RunRecord]) -> list[TimedRun]:
        """The runs with the seconds of their steps."""
        return [TimedRun(run, tuple(step["seconds"] for step in self.state.files.steps(run))) for run in runs]
