"""What happened: records of runs, prepared data, plans and the schemas of their files. Frozen."""

from tunewise.records.data import BETWEEN_PARTS, DataLaw, DataSummary, LawCount, SplitSummary
from tunewise.records.run import (
    LOST,
    LOST_SEED,
    MAX_ATTEMPTS,
    REFERENCES_FIELD,
    Environment,
    Evaluation,
    Memory,
    RunRecord,
    Sample,
    Status,
    Tuned,
    Usage,
)
from tunewise.records.tables import (
    EXAMPLES_SCHEMA,
    FORGETTING_SCHEMA,
    SCORES_SCHEMA,
    SPECTRUM_SCHEMA,
    WRITTEN_COLUMNS,
    extracted_split,
    truncated_split,
)

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
    "Tuned",
    "Usage",
    "WRITTEN_COLUMNS",
    "extracted_split",
    "truncated_split",
]
