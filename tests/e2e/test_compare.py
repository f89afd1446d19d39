"""From data to a verdict, a report and a model that anybody can load: the whole product, small."""

import json
import random
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from watched_sockets import asked, watched

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = ROOT / "src" / "tunewise" / "assets" / "tiny"
REFEREE = runpy.run_path(str(ROOT / "tests" / "referee" / "perplexity.py"))
COLOURS = ("red", "green", "blue", "black", "white", "brown", "grey", "pink", "gold", "teal")
THINGS = ("house", "river", "stone", "horse", "ship", "tree", "book", "king", "road", "lamp", "wall", "door")

SCRIPT = """
import tunewise as tw

result = tw.compare(tw.read_study(__import__("pathlib").Path("study.yaml")), listener=lambda event: None)
print(len(result.rows()), [verdict.outcome for verdict in result.report.verdicts])
"""


def rows(num: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    chosen = [(draw.choice(COLOURS), draw.choice(THINGS), draw.randint(2, 900)) for _ in range(num)]
    return [
        {"prompt": f"thing[{t}], colour[{c}], count[{n}]", "completion": f"There are {n} {t}s, all of them {c}."}
        for c, t, n in chosen
    ]


def write_study(folder: Path) -> Path:
    for split, num, seed in (("train", 64, 0), ("valid", 24, 1), ("test", 40, 2)):
        text = "".join(json.dumps(row) + "\n" for row in rows(num, seed))
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    study: dict[str, Any] = {
        "name": "small",
        "data": {split: f"{split}.jsonl" for split in ("train", "valid", "test")},
        "arms": {
            "full": {"method": "full", "learning_rate": 1e-3},
            "lora": {"method": "lora", "rank": 4, "targets": "qkv", "learning_rate": 1e-2},
        },
        "train": {"epochs": 1, "batch_size": 16, "evaluations": 2, "micro_batch_tokens": 512},
        "tuning": {"rates": 2, "cap": 2},
        "looks": [3],
        "forgetting": {"tokens": 500},
        "samples": {"count": 1, "max_new_tokens": 4},
        "machine": {"threads": 1},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small study that a plain script ran, without a `__main__` guard."""
    folder = tmp_path_factory.mktemp("compare")
    write_study(folder)
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("3 ["), result.stdout
    return folder / "runs" / "small"


def test_the_report_has_every_arm_with_its_figures(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert [arm["name"] for arm in report["arms"]] == ["base", "full", "lora"]
    assert [verdict["arm"] for verdict in report["verdicts"]] == ["lora"]
    for arm in report["arms"][1:]:
        assert len(arm["metrics"]["perplexity"]["per_seed"]) == 3
        assert arm["train_seconds"] > 0
        assert arm["saved_bytes"] > 0
    assert report["arms"][1]["trainable_parameters"] == report["arms"][1]["total_parameters"] == 4_339_200
    assert (finished / "report.html").is_file()


@pytest.mark.parametrize("arm", ["full", "lora"])
def test_plain_libraries_find_the_reported_perplexity_of_the_deliverable(finished: Path, arm: str) -> None:
    report = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    reported = next(a for a in report["arms"] if a["name"] == arm)["metrics"]["perplexity"]["per_seed"]
    found = REFEREE["measure"](finished / "best" / arm, str(TINY), finished.parents[1] / "test.jsonl", "\n")
    assert min(abs(found["perplexity"] / value - 1) for value in reported) < 1e-6


def test_the_same_command_again_runs_nothing_and_changes_no_figure(finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("record.json")}
    report = (finished / "report.json").read_text(encoding="utf-8")
    command = [sys.executable, "-m", "tunewise", "compare", "study.yaml"]
    subprocess.run(command, cwd=finished.parents[1], check=True, capture_output=True, timeout=300)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("record.json")} == before
    assert json.loads((finished / "report.json").read_text(encoding="utf-8"))["arms"] == json.loads(report)["arms"]


def test_a_lost_run_is_made_again_to_the_same_scores_without_any_network(finished: Path) -> None:
    victim = next(
        p for p in sorted(finished.rglob("record.json")) if json.loads(p.read_text())["spec"]["arm"] == "lora"
    )
    scores = (victim.parent / "scores.parquet").read_bytes()
    victim.unlink()
    shutil.rmtree(finished / "data")
    command = [sys.executable, "-m", "tunewise", "compare", "study.yaml", "--offline"]
    environment = watched(finished.parents[1])
    subprocess.run(command, cwd=finished.parents[1], env=environment, check=True, capture_output=True, timeout=300)
    assert (victim.parent / "scores.parquet").read_bytes() == scores
    assert asked(finished.parents[1]) == [], "data prepared, a run trained and scored, a report written: no call"


def test_report_list_and_generate_read_the_folder(finished: Path) -> None:
    def said(*arguments: str) -> str:
        command = [sys.executable, "-m", "tunewise", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout

    assert "lora" in said("report", str(finished))
    assert "lora" in said("list", str(finished.parent))
    answers = said("generate", str(finished), "--prompt", "thing[ship], colour[red], count[7]", "--max-new-tokens", "4")
    assert [line for line in answers.splitlines() if line.startswith("---")] == ["--- base", "--- full", "--- lora"]


@pytest.mark.parametrize("source", ["model", "data"])
def test_offline_a_name_of_the_hub_is_refused_without_asking_and_else_it_is_asked_for(
    source: str, tmp_path: Path
) -> None:
    names = {"model": "tiny", "data": "builtin:stdlib", source: "owner/name-that-nobody-has"}
    command = [sys.executable, "-m", "tunewise", "check", "--model", names["model"], "--data", names["data"]]
    environment = watched(tmp_path)
    done = subprocess.run(
        [*command, "--offline"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 2, done.stderr
    assert "owner/name-that-nobody-has" in done.stderr
    assert asked(tmp_path) == []
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 2
    assert "owner/name-that-nobody-has" in done.stderr
    assert len(asked(tmp_path)) == 1, "without --offline the hub is asked, and an absent one not again for every file"
