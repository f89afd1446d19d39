"""report.json: the content of the report as plain typed data (built by desk/report/compose/build.py).

Charts, page and terminal read nothing else. Missing numbers are None. Costs are medians over the confirmed runs.
"""

import json

from tunewise.desk.analysis.costs import Cost
from tunewise.desk.analysis.curves import ToQuality
from tunewise.desk.analysis.forgetting import AtEqualQuality, CurvePoint
from tunewise.desk.fairness.finding import Finding
from tunewise.desk.report.views.advice_view import Advice
from tunewise.desk.report.views.capacity_view import CapacityView
from tunewise.desk.statistics.intervals import Estimate
from tunewise.desk.statistics.paired import MetricSummary
from tunewise.desk.statistics.verdict import Verdict
from tunewise.records import DataSummary, Environment
from tunewise.records.plan import Prospect, StudySeconds
from tunewise.spec import BASES, TASKS, CostName, Frozen, Price, Task
from tunewise.storage.test_sets import TestSetView

REPORT_VERSION = 1


class StudyView(Frozen):
    """The question, and how to rerun the study."""

    name: str
    model: str
    task: Task
    sources: dict[str, str]  # split -> where its rows come from
    question: str
    primary_metric: str  # of the verdicts
    selected_by: str | None = None  # the metric of `select_by`; None: nll selects (classification: accuracy)
    cost: CostName  # that decides which arm is recommended
    reference_arm: str  # what gain is measured over: base, or for a classification the arm that trains the head alone
    full_arm: str | None  # what arms are compared with; None: the study has none
    margin: str | None  # the declared acceptable quality loss, as text; None: by metric, and no verdict yet
    full_within_margin_after: float | None  # share of its steps after which full was within the margin of its own best
    seeds: tuple[int, ...]  # confirmed in every arm so far
    planned_seeds: tuple[int, ...]  # of the next look, or of the last one
    looks: tuple[int, ...]  # numbers of seeds at which verdicts are given, fixed in advance
    went_on: tuple[tuple[str, ...], ...]  # after each interim look, the arms that continued to the next
    finished_runs: int
    run_seconds: float  # of all finished runs together: loading, training, evaluation
    planned_seconds: StudySeconds | None  # of all its runs; None: not known before
    price: Price | None = None  # of an hour, as the user gave it; None: the report shows no costs
    run_cost: float | None = None  # of `run_seconds` at this price, in its currency
    command: str  # reruns the study, in a folder next to this one
    resolved: str  # study.yaml with every default

    @property
    def selection_metric(self) -> str:
        """The metric on the validation set that chose learning rates and checkpoints."""
        return self.selected_by or TASKS[self.task].selection_metric


class RatePoint(Frozen):
    """One learning-rate trial."""

    learning_rate: float
    valid_nll: float | None  # None: it did not finish (it diverged or failed)
    valid_accuracy: float | None  # share of right labels, or texts if these select; None: also if NLL selects
    forgetting: float | None  # change of the NLL on general text against the base; None: not measured
    selected: bool


class TrainPoint(Frozen):
    """Training loss of a few neighboring steps, weighted by their targets; of an arm trained elsewhere, as logged."""

    step: int  # the last of them
    nll: float


class ValidPoint(Frozen):
    """One evaluation on the validation set."""

    step: int
    nll: float
    accuracy: float | None


class LearningCurve(Frozen):
    """Training curve of one confirmed run."""

    seed: int
    train: tuple[TrainPoint, ...]  # at most MAX_TRAIN_POINTS
    valid: tuple[ValidPoint, ...]
    selected_step: int | None


class PlannedView(Frozen):
    """Planned cost of one arm before its first run; None: could not be planned."""

    step_bytes: int | None  # tensors alive at the peak of an optimizer step
    above_start_bytes: int | None  # peak of the training process above its start, measured in a timing probe
    train_seconds: float | None  # optimizer steps of a run


class ArmView(Frozen):
    """One arm: method, quality, cost."""

    name: str
    method: str  # as text
    fits_in_memory: bool  # False: some run needed more memory than available, and the arm is excluded
    learning_rate: float | None  # the chosen one; None: nothing is trained
    bracket: (
        tuple[float, float] | None
    )  # the neighboring rates, both worse; None: it was the lowest or highest one tried
    rate_ratio: (
        Estimate | None
    )  # the best rate as a multiple of full's; None: not estimated (desk/analysis/rate_ratio.py)
    headroom: float | None  # possible gain from a rate between those tried, in the selection loss; None: no estimate
    trainable_parameters: int | None
    total_parameters: int | None
    trainable_percent: float | None
    parameters_per_target: float | None  # trainable parameters per supervised token of train (classify: per row)
    scale: float | None  # effective LoRA scale
    linear_share: float | None  # share of the weights of the base's body inside the targets
    train_seconds: float | None
    step_seconds: float | None
    first_step_seconds: float | None
    seconds_to_quality: float | None
    tokens_per_second: float | None  # processed
    supervised_tokens_per_second: float | None
    load_peak_bytes: int | None
    peak_memory_bytes: int | None
    peak_memory_above_start_bytes: int | None
    evaluate_peak_bytes: int | None
    saved_bytes: int | None
    train_cost: float | None = None  # of `train_seconds` at the price of the study; None: no price, or no time
    planned: PlannedView | None  # None: not planned, or its rank was chosen by its own trials
    ratio_to_full: dict[str, float | None]  # of each cost
    metrics: dict[str, MetricSummary]  # on test; empty while nothing is confirmed
    forgetting: Estimate | None  # change of the mean NLL on general text against the base; None: not measured
    forgetting_at_equal_quality: AtEqualQuality | None  # None: not measured while training
    forgetting_curve: tuple[CurvePoint, ...]
    to_quality: ToQuality | None  # time to the validation loss that every arm reaches; None: not measured
    num_steps: int | None
    selected_steps: tuple[int | None, ...]  # by seed
    learning_rate_curve: tuple[RatePoint, ...]
    learning_curves: tuple[LearningCurve, ...]

    @property
    def cost(self) -> Cost:
        """The arm's costs."""
        return Cost(**{name: getattr(self, name) for name in Cost.model_fields})


class VerdictView(Verdict):
    """A verdict with its sentence, and a cross-check of its interval."""

    sentence: str
    secondary_sentence: str | None = None  # on the second metric; None: none is declared
    needs: str | None  # what would settle it, as text; None: decided, shown to be worse, or more data would not help
    pigeonhole: Estimate | None  # the interval by bootstrap, not used for the verdict; None: fewer than 5 seeds
    look: int  # number of seeds of the look at which it was given
    seed_differences: tuple[float, ...]  # by seed: the metric minus full's; minus full's mean if seeds are not paired


class ProspectView(Prospect):
    """The chance of an answer of one arm, with its sentence."""

    sentence: str


class SampleView(Frozen):
    """Outputs of base and arms for one test prompt."""

    example: str
    prompt: str
    reference: str
    outputs: dict[str, str]  # by arm


class Report(Frozen):
    """A finished or unfinished study, as in report.json (schema: docs/report.schema.json)."""

    schema_version: int = REPORT_VERSION
    tunewise_version: str
    study: StudyView
    headline: str
    declarations_changed: tuple[str, ...]  # after the first test score: the report is exploratory, without verdicts
    recommended_arm: str | None  # the cheapest that is as good or better; None: there is none
    is_complete: bool
    no_verdict: str | None  # why there are no verdicts; None: there are
    arms: tuple[ArmView, ...]  # the base first, then full, then as the study names them
    verdicts: tuple[VerdictView, ...]
    prospects: tuple[ProspectView, ...] = ()  # as estimated before any test score; empty: not known
    capacity: CapacityView  # rank, modules and low-rank analysis, if requested
    samples: tuple[SampleView, ...]
    test_set: TestSetView | None = None  # its uses by other studies; None: not counted
    data: DataSummary
    environment: Environment | None  # of the first run; differences between arms are warnings
    warnings: tuple[Finding, ...]  # blocking ones first
    advice: Advice | None = None  # None only while the report is being built
    sha256: str | None = None  # of the text of report.json before this key; None: not read from there

    def arm(self, name: str) -> ArmView:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def tuned_arms(self) -> tuple[ArmView, ...]:
        """All arms but the base."""
        return tuple(arm for arm in self.arms if arm.name not in BASES.values())


def schema_text() -> str:
    """docs/report.schema.json: the JSON Schema of report.json."""
    return json.dumps(Report.model_json_schema(mode="serialization"), indent=1, ensure_ascii=False) + "\n"
