"""What happened: frozen records of runs, prepared data and plans, and the schemas of their files."""

from tunewise.records.data import BETWEEN_PARTS, DataLaw, DataSummary, LawCount, SplitSummary
from tunewise.records.run import (
    LOST,
    LOST_SEED,
    MAX_ATTEMPTS,
    Environment,
    Evaluation,
    Memory,
    RunRecord,
    Sample,
    Status,
    Usage,
)
from tunewise.records.tables import (
    EXAMPLES_SCHEMA,
    FORGETTING_SCHEMA,
    REFERENCES_FIELD,
    SCORES_SCHEMA,
    SPECTRUM_SCHEMA,
    WRITTEN_COLUMNS,
    extracted_split,
    truncated_split,
)
from tunewise.records.tuned import TrainableSummary

__all__ = [
    "BETWEEN_PARTS",
    "DataLaw",
    "DataSummary",
    "EXAMPLES_SCHEMA",
    "Environment",
    "Evaluation",
    "FORGETTING_SCHEMA",
    "LOST",
    "LOST_SEED",
    "LawCount",
    "MAX_ATTEMPTS",
    "Memory",
    "REFERENCES_FIELD",
    "RunRecord",
    "SCORES_SCHEMA",
    "SPECTRUM_SCHEMA",
    "Sample",
    "SplitSummary",
    "Status",
    "TrainableSummary",
    "Usage",
    "WRITTEN_COLUMNS",
    "extracted_split",
    "truncated_split",
]
