"""The published JSON Schema of study files, for editors, is that of the code."""

import json
from pathlib import Path

from tunewise.spec import StudySpec

SCHEMA = Path(__file__).parents[1] / "docs" / "study.schema.json"


def test_the_published_schema_of_study_files_is_the_codes() -> None:
    published = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert published == StudySpec.model_json_schema(), (
        'docs/study.schema.json is old. Write it again: python -c "import json, tunewise as tw; '
        'print(json.dumps(tw.StudySpec.model_json_schema(), indent=1))" > docs/study.schema.json'
    )
