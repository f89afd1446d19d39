"""bench/gpu.py, the script for a card, does its work on small models without one."""

import os
import re
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(BENCH))
    return pytest.importorskip("gpu")


def written(out: Path, *sections: str) -> str:
    """What the script writes for these sections, on small models."""
    command = [
        sys.executable,
        str(BENCH / "gpu.py"),
        "--device",
        "cpu",
        "--tiny",
        "--out",
        str(out),
        "--only",
        *sections,
    ]
    # a Ray cluster that another test left in this process has put PYTHONSAFEPATH into the environment
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = out.read_text(encoding="utf-8")
    assert text.strip() == done.stdout.strip()
    assert "failed" not in text
    assert "Error" not in text
    return text


@pytest.mark.slow
def test_loading_and_steps_have_figures_in_every_row(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    text = written(tmp_path / "card.md", "loading", "steps")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    loads = {row[0] for row in rows if len(row) == 6 and all(re.match(r"-?\d|–", cell) for cell in row[1:])}
    assert loads == {"LoRA", "QLoRA", "full", "transformers, bf16"}
    steps = {(row[1], row[2]): row for row in rows if row[0] == "Qwen/Qwen2.5-0.5B"}
    for arm in ("LoRA", "QLoRA", "full"):
        ours, theirs = steps[arm, "tunewise"], steps[arm, "Trainer + peft"]
        assert float(ours[5]) == pytest.approx(float(theirs[5]), abs=0.0015), "the same weights, rows and targets"
        assert ours[8].endswith("%"), "the plan's error"
        assert theirs[4].endswith("x")


@pytest.mark.slow
def test_the_study_ends_with_a_sentence_for_every_arm_and_its_planned_costs(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    text = written(tmp_path / "card.md", "study")
    assert len(re.findall(r"^\* .*(lora-r8|qlora-r16-all)", text, re.MULTILINE)) == 2
    assert len(re.findall(r"^\| (full|lora-r8|qlora-r16-all) \|", text, re.MULTILINE)) == 3


def test_a_section_that_fails_leaves_its_last_line_and_one_that_is_late_says_so(
    script: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(task: object) -> list[str]:
        raise RuntimeError("first line\nthe card | is gone")

    monkeypatch.setattr(script, "SECTIONS", {"steps": (0.0, script.steps), "study": (9.0, broken)})  # type: ignore[attr-defined]
    given = Namespace(device="cpu", tiny=True)
    late, failed = (script.section(name, given, tmp_path) for name in ("steps", "study"))  # type: ignore[attr-defined]
    assert late.count("| no time was left in this section |") >= 6
    assert "| the card / is gone |" in failed


def test_a_command_is_stopped_with_all_that_it_started_and_keeps_what_it_printed(
    script: object, tmp_path: Path
) -> None:
    task = script.Task("cpu", True, tmp_path, time.monotonic() + 2)  # type: ignore[attr-defined]
    out, why = task.run("-c", "import time; print('seen', flush=True); time.sleep(60)")
    assert (out, why) == ("seen\n", "no time was left in this section")
    task = script.Task("cpu", True, tmp_path, time.monotonic() + 60)  # type: ignore[attr-defined]
    assert task.run("-c", "raise SystemExit('no card')")[1] == "exit status 1: no card"
