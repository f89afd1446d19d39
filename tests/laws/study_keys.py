"""Where a difference between two studies is looked for: in the prepared data, in a run, in what is asked, told or kept.

Every probe takes a study and returns plain data that is the same whenever the study behaves the same. None of them
looks at a specification, or at an id that is a hash of one.
"""

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from small_studies import FolderOf, SmallStudy, executor_here, rows_of
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import tunewise.lab.run.training
from builders import make_run_spec
from desk import conftest as fake
from desk import simulated_study
from fake_executor import FakeExecutor
from tunewise.commands import compare as driver
from tunewise.desk.planning.budget import within_budget
from tunewise.desk.protocol import resolve, schedule
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.rows import costs
from tunewise.desk.report.wording import recommendation
from tunewise.desk.statistics.verdict import both_metrics
from tunewise.desk.study.state import StudyState
from tunewise.errors import UserError
from tunewise.executors.attempts import Attempts
from tunewise.executors.base import Job, RunJob
from tunewise.executors.local import server, shares
from tunewise.executors.places import Places
from tunewise.executors.slurm.queue import options
from tunewise.lab.data.prepare import prepare_examples
from tunewise.lab.train.checkpoint import Checkpoints
from tunewise.lab.train.loop import Loop, Step, train
from tunewise.records import RunRecord
from tunewise.records.events import Event, unheard
from tunewise.spec import MachineSpec, RunSpec, SlurmSpec, StudySpec
from tunewise.storage.ledger import Ledger, files_below

CHAT = (
    "{% for turn in messages %}w10 {% if turn.role == 'assistant' %}{% generation %}{{ turn.content }}"
    "{% endgeneration %}{% else %}{{ turn.content }}{% endif %} {% endfor %}"
)
REMOTE = """
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


class Bench:
    """The files that the studies read, and one place after another to work in."""

    def __init__(self, folder: Path, folder_of: FolderOf) -> None:
        self.folder, self.folder_of = folder, folder_of
        self.numbers = itertools.count()
        self._write_tables()
        texts = {
            "documents.txt": "\n\n\n".join(f"w{4 + n} w9\n\nw{5 + n} w8" for n in range(30)),
            "general.txt": "w9 w8 w7 w6 w5 " * 40,
            "other.txt": "w19 w18 w17 w16 w15 " * 40,
            "first.jinja": CHAT,
            "second.jinja": CHAT.replace("w10", "w11"),
            "cells.csv": "prompt,completion\n" + "".join(f"w{n} w4,w{n + 1} w6\n" for n in range(7, 23)),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")

    def _write_tables(self) -> None:
        rows = [
            {**row, "question": f"w5 {row['prompt']}", "source": f"s{n % 3}"} for n, row in enumerate(rows_of("sft"))
        ]
        roles = (("user", "prompt"), ("assistant", "completion"))
        speakers = (("human", "prompt"), ("gpt", "source"), ("human", "prompt"), ("bot", "completion"))
        tables: dict[str, list[dict[str, Any]]] = {
            "all": rows,
            "train": rows[:16],
            "other": [{**row, "completion": "w6 w7"} for row in rows[16:24]],
            "wordy": [{**row, "completion": "w6 w7 " * 6} for row in rows[:16]],
            "valid": rows[24:32],
            "test": rows[32:],
            "repeated": [*rows[:12], *rows[32:36]],
            "chat": [{"messages": [{"role": role, "content": row[key]} for role, key in roles]} for row in rows],
            "spoken": [{"conversations": [{"from": who, "value": row[key]} for who, key in speakers]} for row in rows],
            "classes": rows_of("classify"),
        }
        for name, table in tables.items():
            text = "".join(json.dumps(row) + "\n" for row in table)
            (self.folder / f"{name}.jsonl").write_text(text, encoding="utf-8")

    def new(self) -> Path:
        """A folder that nobody used."""
        place = self.folder / f"place-{next(self.numbers)}"
        place.mkdir()
        return place

    def path(self, name: str) -> str:
        """Of one of the files, or of a model."""
        if name == "remote":
            return str(self._remote_model())
        if name == "drawn again":
            return str(self._other_weights())
        file = self.folder / name
        return str(file if file.exists() else self.folder_of(name))

    def _remote_model(self) -> Path:
        """A model whose classes are in its own folder."""
        folder, source = self.folder / "remote model", self.folder_of("llama")
        folder.mkdir(exist_ok=True)
        for file in source.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
        own = {**config, "model_type": "own", "architectures": ["OwnModel"], "auto_map": classes}
        (folder / "config.json").write_text(json.dumps(own), encoding="utf-8")
        (folder / "own.py").write_text(REMOTE, encoding="utf-8")
        return folder

    def _other_weights(self) -> Path:
        """The small Llama with other random weights."""
        torch.manual_seed(5)
        config = AutoConfig.from_pretrained(self.folder_of("llama"))
        AutoModelForCausalLM.from_config(config).save_pretrained(self.folder / "drawn again")
        return self.folder / "drawn again"

    def small(self, study: StudySpec) -> SmallStudy:
        """The study with its data prepared, ready to run in this process."""
        return SmallStudy(self.new(), study)


# --- probes


def prepared(bench: Bench, study: StudySpec) -> Any:
    """The examples of every split, or why there are none."""
    folder = bench.new()
    try:
        tokenizer = AutoTokenizer.from_pretrained(bench.path("llama"))
        prepare_examples(study, tokenizer, 512, folder, (tokenizer.eos_token_id,))
    except UserError as error:
        return str(error)
    return {split: pq.read_table(folder / f"{split}.parquet").to_pylist() for split in ("train", "valid", "test")}


def described(bench: Bench, study: StudySpec) -> Any:
    """What each arm will train on which model, or why it cannot."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(bench.folder / "modules"))
            data = bench.small(study).data
    except UserError as error:
        return type(error).__name__
    return data.model_type, data.arms


def trained(bench: Bench, study: StudySpec) -> Any:
    """All that the first run of the arm computes: its steps, evaluations and scores, on what it ran."""
    try:
        small = bench.small(study)
    except UserError as error:
        return type(error).__name__
    spec = next(spec for spec in small.waiting() if spec.arm == "arm")
    noted: dict[str, Any] = {"micro-batches": []}

    def note(model: torch.nn.Module, steps: Iterator[Any], loop: Loop) -> Iterator[Step]:
        noted["recomputes"] = model.is_gradient_checkpointing  # type: ignore[union-attr]
        noted["attention"] = model.config._attn_implementation  # type: ignore[union-attr]

        def counted() -> Iterator[Any]:
            for batches in steps:
                noted["micro-batches"].append(len(batches))
                yield batches

        return train(model, counted(), loop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tunewise.lab.run.training, "train", note)
        record = small.run(spec)
    return noted, contents(small, record), [record.environment and record.environment.threads]


def checkpointed(bench: Bench, study: StudySpec) -> Any:
    """How many checkpoints a run writes on its way; client and server of the lab in this process."""
    small = bench.small(study)
    spec = next(spec for spec in small.waiting() if spec.arm == "arm")
    written: list[Checkpoints] = []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "watch", lambda handle, limit, send: threading.Event())
        patch.setattr(Checkpoints, "_write", lambda checkpoints, state: written.append(checkpoints))
        run_here(patch, small, spec)
    return len(written)


def limited(bench: Bench, study: StudySpec) -> Any:
    """After how many seconds a worker is told to end itself."""
    small, limits = bench.small(study), []
    spec = next(spec for spec in small.waiting() if spec.arm == "arm")

    def note(handle: int, limit: float | None, send: object) -> threading.Event:
        limits.append(limit)
        return threading.Event()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "watch", note)
        run_here(patch, small, spec)
    return limits


def placed(bench: Bench, study: StudySpec) -> Any:
    """The number of places on a machine of eight cores, and whether a confirmation may start beside another run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares, "usable_cores", lambda: 8)
        machine, environments = shares.shared(study.machine)
    places = Places([executor_here] * len(environments), Ledger(bench.new()), machine, unheard)
    places.under_way["other"] = make_run_spec()
    return len(environments), places.may_start(make_run_spec(role="confirm", seed=1))


def hosted(bench: Bench, study: StudySpec) -> Any:
    """Whom the driver asks for places."""
    asked: list[str] = []

    def here(*of: object) -> tuple[MachineSpec, tuple[dict[str, str], ...]]:
        asked.append("this machine")
        return study.machine, ({},)

    def cluster(address: str | None) -> AbstractContextManager[None]:
        asked.append("Ray")
        return nullcontext()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "shared", here)
        patch.setattr(driver, "connected", cluster)
        patch.setattr(driver, "nodes", lambda: [{"CPU": 1.0}])
        with driver.places_of(study, Ledger(bench.new()), 0, unheard, None):
            return asked


def submitted(bench: Bench, study: StudySpec) -> Any:
    """Options of `sbatch` for a run."""
    return options(study.machine.slurm or SlurmSpec(), study.machine.threads)


def run_here(patch: pytest.MonkeyPatch, small: SmallStudy, spec: RunSpec) -> None:
    """One run, client and server of the lab in this process."""

    def here(job: Job) -> Iterator[Event]:
        assert isinstance(job, RunJob)
        server.run_job(job)
        return iter(())

    patch.setattr(server, "send", lambda event: None)
    patch.setattr(server.signal, "signal", lambda number, handler: None)
    Attempts(FakeExecutor(here), small.ledger, small.study.machine).run(spec, small.data_folder)


def confirmed(bench: Bench, study: StudySpec) -> Any:
    """All that the first confirmed run of the arm computes and writes."""
    small = bench.small(study).finish()
    runs = (record for record in small.records() if (record.spec.arm, record.spec.role) == ("arm", "confirm"))
    record = min(runs, key=lambda run: run.spec.seed)
    return contents(small, record), record.samples


def contents(small: SmallStudy, record: RunRecord) -> Any:
    """What a run left behind, times aside."""
    folder = small.ledger.run_folder(record.run_id)
    tables = {path.name: pq.read_table(path).to_pylist() for path in folder.glob("*.parquet")}
    steps = [{**step, "seconds": None} for step in small.ledger.steps(record.run_id)]
    groups = record.tuned.parameter_groups if record.tuned else ()
    return steps, record.evaluations, record.selected_step, groups, tables


def asked(bench: Bench, study: StudySpec) -> Any:
    """Every run of the study, where each arm is best far above its centre and at 10 times the rate of its head."""
    data = simulated_study.data_summary(study.task or "sft")
    resolved = resolve.resolve(study, data)

    def lab(spec: RunSpec) -> RunRecord:
        loss = None if spec.learning_rate is None else (torch.tensor(spec.learning_rate).log() + 2).abs().item()
        return simulated_study.record(spec, loss)

    runs = [record.spec for record in simulated_study.drive(resolved, data, lab)]
    return [(run.arm, run.role, run.seed, run.learning_rate, run.head_learning_rate) for run in runs]


def reused(bench: Bench, study: StudySpec) -> Any:
    """How many runs count that were made with another torch."""
    data = simulated_study.data_summary(study.task or "sft")
    older = data.replace(inputs=data.inputs.replace(versions={"torch": "1.0"}).model_dump())
    resolved = resolve.resolve(study, data)
    made = simulated_study.drive(resolved, older, lambda spec: simulated_study.record(spec, 2.0))
    return len(schedule.current(resolved, data, made))


def reported(bench: Bench, study: StudySpec) -> Any:
    """What a report says of quality and costs, and what it recommends, its figures made up."""
    changes = study.model_dump(exclude_unset=True, mode="json", exclude={"data", "arms", "model", "name"})
    report = build_report(fake.write_study(bench.new(), study=changes))
    advice = recommendation(report.recommended_arm, report.study.cost) if report.recommended_arm else None
    both = [one for verdict in report.verdicts for one in both_metrics(verdict)]
    figures = [(verdict.metric, verdict.outcome, verdict.low, verdict.high) for verdict in both]
    return report.headline, advice, figures, costs(report)


def parted(bench: Bench, study: StudySpec) -> Any:
    """The studies of which it consists."""
    return [(of.name, of.seed, of.data.train) for of in map(study.of_set, study.sets)]


def counted(bench: Bench, study: StudySpec) -> Any:
    """How often a later study hears of this one in the ledger of test sets."""
    changes = study.model_dump(exclude_unset=True, mode="json", exclude={"data", "arms", "model", "name"})
    place, data = bench.new(), {"test_set": f"{next(bench.numbers):064x}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(place))
        driver.record_looks(StudyState.read(fake.write_study(place / "first", study=changes, data=data)))
        later = build_report(fake.write_study(place / "later", study={"seed": 1}, data=data))
    return later.test_set and later.test_set.other_studies


def afforded(bench: Bench, study: StudySpec) -> Any:
    """Looks and cap once the first trial took 27 seconds."""
    data = fake.data_summary()
    resolved = resolve.resolve(study, data)
    ledger = Ledger(bench.new())
    lab = fake.FakeLab(ledger, resolved, data, fake.unchanged)
    first = next(spec for spec in schedule.next_runs(resolved, data, [], ()) if spec.role == "tune")
    fitted = within_budget(resolved, data, [lab.run(first)])
    cut = fitted.study if fitted else resolved
    return cut.looks, cut.tuning.cap


def kept(bench: Bench, study: StudySpec) -> Any:
    """The folder that a whole study leaves, by the paths of its files; of a run the role instead of the id."""
    place = bench.new()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(driver, "LocalExecutor", executor_here)
        ledger = Ledger(driver.compare(study).folder)
    roles = {record.run_id: record.spec.role for record in ledger.records()}
    paths = (path.relative_to(place).parts for path in files_below(place) if ".safetensors" in path.name)
    return sorted([roles.get(part, part) for part in path] for path in paths)


Probe = Callable[[Bench, StudySpec], Any]
