"""Laws 65 to 67: models that others trained, one for every seed, as an arm of a study."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_studies import small_study

from desk.conftest import write_study
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.views.view import Report
from tunewise.desk.study.state import StudyState
from tunewise.errors import SpecError

WEIGHTS = {name: name * 64 for name in "abc"}
QUESTIONS: dict[str, dict[str, Any]] = {
    "nll": {"study": {"margin": "0.05"}},
    "accuracy": {"study": {"margin": "10pp", "task": "classify"}, "data": {"task": "classify"}},
}


def judged(folder: Path, metric: str, order: str, left: Any = None) -> tuple[Report, StudyState]:
    """The report of a study whose arm was trained elsewhere, its folders in this order."""
    arms = {"full": {"method": "full"}, "lora-r8": {"method": "existing", "paths": list(order)}}
    asked = QUESTIONS[metric]
    study = {"arms": arms, "looks": [len(order)], **asked["study"]}
    data = {**asked.get("data", {}), "existing": {"lora-r8": [WEIGHTS[name] for name in order]}, "left": left or {}}
    ledger = write_study(folder, study=study, data=data)
    return build_report(ledger), StudyState.read(ledger)


@pytest.mark.parametrize("metric", QUESTIONS)
def test_law_65_the_order_of_folders_trained_elsewhere_changes_no_verdict(tmp_path: Path, metric: str) -> None:
    """Law 65: their seeds have nothing in common with ours, so no pairs are made of them."""
    orders = ["".join(order) for order in itertools.permutations("abc")]
    reports = [judged(tmp_path / order, metric, order)[0] for order in orders]
    first, *others = (next(of for of in report.verdicts if of.arm == "lora-r8") for report in reports)
    assert first.low is not None
    for verdict in others:
        assert (verdict.outcome, verdict.num_seeds, verdict.num_rows) == (first.outcome, 3, first.num_rows)
        for name in ("difference", "low", "high", "standard_error", "degrees_of_freedom"):
            assert getattr(verdict, name) == pytest.approx(getattr(first, name), rel=1e-9, abs=1e-12), name
        assert sorted(verdict.seed_differences) == pytest.approx(sorted(first.seed_differences))
    assert first.gain_kept is None
    assert first.pigeonhole is None


def test_law_66_the_run_of_every_seed_scores_the_folder_of_that_seed(tmp_path: Path) -> None:
    """Law 66: each is identified by its own weights, and none is scored twice."""
    report, state = judged(tmp_path, "nll", "cab")
    runs = [record.spec for record in state.confirmed["lora-r8"]]
    assert [run.seed for run in runs] == list(state.study.confirmation_seeds())
    assert [run.method.model_dump() for run in runs] == [{"method": "existing", "path": name} for name in "cab"]
    assert [run.inputs.existing for run in runs] == [WEIGHTS[name] for name in "cab"]
    assert len({run.run_id for run in runs}) == 3
    assert report.arm("lora-r8").metrics["nll"].low is not None, "its seeds have a spread"
    assert len(report.arm("lora-r8").metrics["nll"].per_seed) == 3


def left_by(*seeds: int, **settings: str) -> dict[str, Any]:
    """What trainers left in three folders."""
    curve = [[10 * step, 3.0 - 0.1 * step] for step in range(1, 4)]
    return {"lora-r8": [{"settings": {**settings, "seed": str(seed)}, "losses": curve} for seed in seeds]}


@pytest.mark.parametrize(
    ("left", "reason"),
    [
        (left_by(42, 42, 42), "seed 42 in 3 folders"),
        ({"lora-r8": [*left_by(1, 2, rank="8")["lora-r8"], *left_by(3, rank="16")["lora-r8"]]}, "rank 16/8"),
    ],
)
def test_law_67_folders_that_are_not_seeds_of_one_training_get_no_verdict(
    tmp_path: Path, left: dict[str, Any], reason: str
) -> None:
    """Law 67: what trainers left shows it; where nothing is known, a warning says so."""
    report, _ = judged(tmp_path / "study", "nll", "abc", left=left)
    found = {finding.id: finding for finding in report.warnings}
    assert found["not-seeds"].evidence == reason
    assert report.verdicts[-1].outcome == "undecided"
    assert report.verdicts[-1].blocked_by == ("not-seeds",)
    selected = {"lora-r8": [*left_by(1, 2, steps="60")["lora-r8"], *left_by(3, steps="50")["lora-r8"]]}
    fair, _ = judged(tmp_path / "fair", "nll", "abc", left=selected)
    found = {finding.id: finding for finding in fair.warnings}
    assert "not-seeds" not in found
    assert fair.verdicts[-1].outcome == "as good"
    assert found["trained-elsewhere"].evidence == "1 arm: lora-r8 (steps 60/50, seed 1/2/3)"
    assert found["other-training"].evidence == "steps: 50/60 against 126"


def test_the_losses_that_trainers_left_are_among_the_curves_of_a_report(tmp_path: Path) -> None:
    report, state = judged(tmp_path, "nll", "abc", left=left_by(7, 8, 9))
    curves = report.arm("lora-r8").learning_curves
    assert [curve.seed for curve in curves] == list(state.study.confirmation_seeds())
    assert [(point.step, round(point.nll, 6)) for point in curves[0].train] == [(10, 2.9), (20, 2.8), (30, 2.7)]
    assert not any(curve.valid for curve in curves)


def other_weights(source: Path, folder: Path, seed: int) -> str:
    """The model with noise, as another tool would leave it."""
    shutil.copytree(source, folder)
    generator = torch.Generator().manual_seed(seed)
    weights = load_file(folder / "model.safetensors")
    noisy = {name: of + 0.02 * torch.randn(of.shape, generator=generator) for name, of in weights.items()}
    save_file(noisy, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def test_law_66_each_folder_is_scored_with_the_weights_that_are_in_it(
    tmp_path: Path, folder_of: Callable[[str], Path]
) -> None:
    """Law 66: the scores of a seed are those of its folder as an arm of its own."""
    paths = [other_weights(folder_of("llama"), tmp_path / name, ord(name)) for name in "abc"]
    (tmp_path / "b" / "args.json").write_text('{"seed": 5, "learning_rate": 0.001}')
    arms = {
        "full": {"method": "full", "learning_rate": 1e-3},
        "seeds": {"method": "existing", "paths": paths},
        "one": {"method": "existing", "path": paths[1]},
    }
    asked = {"looks": [3], "train": {"max_steps": 2, "batch_size": 4}}
    small = small_study(tmp_path / "study", folder_of("llama"), "sft", arms, **asked).finish()
    state = StudyState.of(small.study, small.data, small.ledger.records(), small.ledger)
    seeds, one = (state.scores(state.confirmed[arm]) for arm in ("seeds", "one"))
    assert [np.array_equal(of.nll, one[0].nll) for of in seeds] == [False, True, False]
    assert not np.array_equal(seeds[0].nll, seeds[2].nll)
    assert state.data.left["seeds"][1].settings == {"learning rate": "0.001", "seed": "5"}
    assert build_report(small.ledger).arm("seeds").metrics["nll"].low is not None
    shutil.copytree(paths[0], tmp_path / "d")
    config = json.loads((tmp_path / "d" / "config.json").read_text())
    (tmp_path / "d" / "config.json").write_text(json.dumps({**config, "use_cache": False}))
    arms["seeds"] = {"method": "existing", "paths": [*paths, str(tmp_path / "d")]}
    with pytest.raises(SpecError, match=r"a and .*d hold the same weights, but copies are not seeds"):
        small_study(tmp_path / "copies", folder_of("llama"), "sft", arms, **asked)
