"""sets.json: the verdict on the mean of several datasets. The report of each set is in its own folder."""

from tunewise.desk.study.sets import MeanVerdict
from tunewise.spec import Frozen

SETS_VERSION = 1


class MeanVerdictView(MeanVerdict):
    """A verdict on the mean, with its sentence."""

    sentence: str


class SetView(Frozen):
    """One set."""

    name: str
    folder: str  # of its study, below that of the whole
    headline: str  # of its own report


class SetsReport(Frozen):
    """A finished or unfinished study of several datasets."""

    schema_version: int = SETS_VERSION
    tunewise_version: str
    name: str
    question: str
    headline: str
    declarations_changed: tuple[str, ...]  # sets whose declarations changed after the first test score
    is_complete: bool
    sets: tuple[SetView, ...]
    verdicts: tuple[MeanVerdictView, ...]  # arm by arm, the primary metric first; empty while runs are missing
