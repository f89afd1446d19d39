"""Is LoRA as good as full fine-tuning for your model, your data, your machine?

    import tunewise as tw
    result = tw.compare(tw.read_study("study.yaml"))
    print(result.report.verdicts)

Names are resolved on first use (PEP 562), so that importing costs nothing and never imports torch.
"""

from importlib import import_module

TYPE_CHECKING = False  # not from typing: with `python -m tunewise` that could still be a file of the current folder
if TYPE_CHECKING:
    from typing import Any

    from tunewise.commands.compare import compare
    from tunewise.commands.plan import check
    from tunewise.commands.report import StudyResult, report
    from tunewise.desk.metrics.metrics import Metric, register_metric
    from tunewise.desk.metrics.scores import Scores
    from tunewise.desk.report.views.view import Report
    from tunewise.desk.statistics.verdict import Verdict
    from tunewise.errors import DataError, ModelError, SpecError, StudyError, TunewiseError, UserError
    from tunewise.spec import (
        DataSpec,
        ExistingMethod,
        ForgettingSpec,
        FullMethod,
        HeadMethod,
        Limits,
        LoraMethod,
        MachineSpec,
        MetricSpec,
        PeftMethod,
        SamplesSpec,
        SplitShares,
        StudySpec,
        TrainSpec,
        TuningSpec,
    )
    from tunewise.spec.reading import parse_study, read_study

_HOMES = {
    "tunewise.desk.metrics.metrics": ("Metric", "register_metric"),
    "tunewise.desk.metrics.scores": ("Scores",),
    "tunewise.desk.report.views.view": ("Report",),
    "tunewise.desk.statistics.verdict": ("Verdict",),
    "tunewise.errors": ("DataError", "ModelError", "SpecError", "StudyError", "TunewiseError", "UserError"),
    "tunewise.spec": (
        *("DataSpec", "ExistingMethod", "ForgettingSpec", "FullMethod", "HeadMethod", "Limits", "LoraMethod"),
        *(
            "MachineSpec",
            "MetricSpec",
            "PeftMethod",
            "SamplesSpec",
            "SplitShares",
            "StudySpec",
            "TrainSpec",
            "TuningSpec",
        ),
    ),
    "tunewise.commands.compare": ("compare",),
    "tunewise.commands.plan": ("check",),
    "tunewise.commands.report": ("StudyResult", "report"),
    "tunewise.spec.reading": ("parse_study", "read_study"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [  # noqa: PLE0604 - the names are strings
    *sorted(_HOME_OF)
]


def __getattr__(name: str) -> "Any":
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tunewise' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
