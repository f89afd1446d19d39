"""Record the verdicts of studies done twice, for scripts/replicate.py.

python scripts/replications.py e2e-tiny runs/e2e-tiny-1 runs/e2e-tiny-2

The two folders hold the same study with other seeds: `tunewise compare studies/e2e-tiny.yaml ... --set seed=1`, and 2.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tunewise.desk.report.views.view import Report

PATH = Path(__file__).parent / "pool" / "replications.json"


def rows(study: str, folders: list[Path]) -> list[dict[str, Any]]:
    """One row per arm with the verdict of each study."""
    reports = [Report.model_validate_json((folder / "report.json").read_text(encoding="utf-8")) for folder in folders]
    seeds = [set(report.study.seeds) for report in reports]
    assert not seeds[0] & seeds[1], "a study done twice has other seeds the second time"
    found = []
    for verdict in reports[0].verdicts:
        times = []
        for report in reports:
            said = next(v for v in report.verdicts if v.arm == verdict.arm)
            arm = next(a for a in report.arms if a.name == verdict.arm)
            fields = said.model_dump(include={"outcome", "reason", "look", "metric", "difference", "low", "high"})
            times.append({**fields, "learning_rate": arm.learning_rate})
        found.append({"study": study, "arm": verdict.arm, "times": times})
    return found


def main() -> None:
    """Replace the rows of one study in replications.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study")
    parser.add_argument("folders", nargs=2, type=Path)
    given = parser.parse_args()
    known = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else []
    kept = [row for row in known if row["study"] != given.study]
    text = json.dumps(kept + rows(given.study, given.folders), indent=1)
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
