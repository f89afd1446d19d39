"""What one CUDA card does, as one Markdown file, in under 9 minutes and without a network.

python bench/gpu.py [--out FILE] [--only SECTION ...] [--device cpu --tiny]

Sections: the laws on the card; loading; steps beside Trainer + peft, TRL and Unsloth (each if it is installed), with
the error of the plan; a study. Each has its own time, and one that fails leaves the others alone. `--device cpu --tiny`
does the same on small models without a card, to test this script.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from machine import environment, publish
from study import planned

from tunewise.assets import ASSETS
from tunewise.desk.report.compose.build import build_report
from tunewise.storage.ledger import Ledger

HERE = Path(__file__).parent
LAWS = HERE.parent / "tests" / "laws" / "test_on_devices.py"
NEEDS = {"tunewise": "tunewise", "Trainer + peft": "peft", "TRL SFTTrainer": "trl", "Unsloth": "unsloth"}
OURS, REFERENCE, UNSLOTH = "tunewise", "Trainer + peft", "Unsloth"
ARMS = ("LoRA", "QLoRA", "full")
SMALLER, LARGER = "Qwen/Qwen2.5-0.5B", "meta-llama/Llama-3.1-8B"  # at most 4,096 tokens a step
SIZES: dict[str, dict[str, Any]] = {
    SMALLER: {"length": 512, "batch_size": 8, "recomputes": False},
    LARGER: {"length": 1024, "batch_size": 4, "recomputes": True},
}
LATE = "no time was left in this section"
Found = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Device, size, a folder for the work, and when the section must end (of time.monotonic)."""

    device: str
    is_tiny: bool
    scratch: Path
    end: float

    def run(self, *command: str | Path) -> tuple[str, str | None]:
        """Output of a command of Python until it ended or the time was over, and why it did not end well."""
        if time.monotonic() >= self.end:
            return "", LATE
        variables = {
            "CUDA_VISIBLE_DEVICES": "0", **os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        with subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=self.scratch, env=variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                out, errors = process.communicate(timeout=self.end - time.monotonic())
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # what it started is in its group
                return process.communicate()[0], LATE
        last = [line.strip() for line in (out + "\n" + errors).splitlines() if line.strip()][-1:]
        return out, " ".join([f"exit status {process.returncode}:", *last]) if process.returncode else None

    def contend(self, contender: str, model: str, arms: Sequence[str]) -> dict[str, Found]:
        """What gpu_step.py found of every arm, or the `error`."""
        small = {"length": 64, "batch_size": 4, "num_steps": 4} if self.is_tiny else {}
        case = {
            "num_steps": 8, **SIZES[model], **small, "contender": contender, "model": model, "arms": arms,
            "device": self.device, "is_small": self.is_tiny, "checkpoint": str(self.scratch / "checkpoint"),
        }  # fmt: skip
        file = self.scratch / "case.json"
        file.write_text(json.dumps(case), encoding="utf-8")
        out, why = self.run(HERE / "gpu_step.py", file)
        found: dict[str, Found] = {arm: {"error": why or "it printed nothing"} for arm in arms}
        for line in out.splitlines():
            if line.startswith('{"arm"'):
                one = json.loads(line)
                found[one["arm"]] |= {"error": None if "seconds" in one else found[one["arm"]]["error"], **one}
        return found


def laws(task: Task) -> list[str]:
    """The tests of tests/laws/test_on_devices.py for the device."""
    out, why = task.run("-m", "pytest", LAWS, "-k", task.device, "-q", "-rA", "-p", "no:cacheprovider")
    found = re.findall(r"^(PASSED|FAILED|SKIPPED|ERROR) (?:\S+::|\[)(.*)$", out, re.MULTILINE)
    rows = [f"| {outcome.lower()} | {_cell(what)} |" for outcome, what in sorted(found)]
    return ["| outcome | test |", "| --- | --- |", *rows, *([f"| failed | {_cell(why)} |"] if why else [])]


def loading(task: Task) -> list[str]:
    """A checkpoint in bf16, written here and loaded as in a run and as transformers loads it."""
    written = task.contend("write", SMALLER, ["bf16"])["bf16"]
    if "file" not in written:
        raise RuntimeError(written["error"])
    lines = [
        f"{SMALLER}'s shape, {_gib(written['file'])} GiB in bf16. Peak: of the device; host: of the process above its "
        "start. Planned: of the device.",
        "",
        "| loaded for | s | weights, GiB | peak | planned | host |",
        "| --- |" + " ---: |" * 5,
    ]
    for arm, of in task.contend("load", SMALLER, [*ARMS, "transformers, bf16"]).items():
        cells = [f"{of['seconds']:.1f}", *map(_gib, map(of.get, ("final", "peak", "planned", "host")))]
        lines.append(f"| {arm} | {_cell(of['error']) if of['error'] else ' | '.join(cells)} |")
    return lines


def steps(task: Task) -> list[str]:
    """Steps of all contenders, and the memory of ours beside the plan."""
    lines = [
        "The same rows of random tokens for all; mean of the steps after the second. Peak and plan: of the "
        "steps. Equal first losses mean equal work.",
        "",
        "| model | arm | contender | s a step | tunewise is faster by | first loss | peak, GiB | planned | error |",
        "| --- | --- | --- |" + " ---: |" * 6,
    ]
    for model in [SMALLER] if task.is_tiny else [SMALLER, LARGER]:
        has_checkpoint = model == SMALLER and (task.scratch / "checkpoint").is_dir()
        names = [name for name, of in NEEDS.items() if find_spec(of) and (name != UNSLOTH or has_checkpoint)]
        found = {name: task.contend(name, model, ARMS) for name in names}
        for arm in ARMS:
            ours = found[OURS][arm].get("seconds")
            for name in names:
                lines.append(f"| {model} | {arm} | {name} | {_step(found[name][arm], ours)} |")
    return lines


def _step(of: Found, ours: float | None) -> str:
    if of["error"]:
        return f"– | – | – | – | {_gib(of.get('planned'))} | {_cell(of['error'])}"
    peak, expected = of["peak"], of.get("planned")
    error = f"{expected / peak - 1:+.1%}" if expected and peak else "–"
    faster = f"{of['seconds'] / ours:.2f}x" if ours else "–"
    return f"{of['seconds']:.3f} | {faster} | {of['loss']:.3f} | {_gib(peak)} | {_gib(expected)} | {error}"


def study(task: Task) -> list[str]:
    """The quickstart's data and base on the device, with an arm in 4 bits."""
    content = yaml.safe_load((ASSETS / "studies" / "quickstart.yaml").read_text(encoding="utf-8"))
    qlora = {**content["arms"].pop("lora-r16-all"), "base": "nf4"}
    content |= {"name": "gpu", "machine": {"device": task.device}, "arms": {**content["arms"], "qlora-r16-all": qlora}}
    if task.is_tiny:
        content["data"]["limit"] = {"train": 32, "valid": 8, "test": 16}
        content |= {
            "looks": [1],
            "forgetting": {"tokens": 0},
            "samples": {"count": 0},
            "tuning": {"rates": 1, "cap": 1},
        }
        content["arms"] = {name: {**arm, "rates": [1e-3]} for name, arm in content["arms"].items()}
        for arm in content["arms"].values():
            arm.pop("learning_rate", None)
    file, folder = task.scratch / "study.yaml", task.scratch / "study"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    begin = time.monotonic()
    _, why = task.run(
        "-m", "tunewise", "compare", file, "--out", folder, *([] if task.is_tiny else ["--budget", "90s"])
    )
    if why:
        raise RuntimeError(why)
    report = build_report(Ledger.open(folder))
    spent = f"{time.monotonic() - begin:.0f} s of wall time, {report.study.run_seconds:.0f} s of them in runs."
    return [spent, "", *(f"* {verdict.sentence}" for verdict in report.verdicts), "", *planned(report).splitlines()]


def _gib(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**30:.3f}"


def _cell(text: str) -> str:
    return text.replace("|", "/")[:200]


# seconds, together under 9 minutes with the start of this script
SECTIONS: dict[str, tuple[float, Callable[[Task], list[str]]]] = {
    "laws": (90, laws),
    "loading": (60, loading),
    "steps": (230, steps),
    "study": (130, study),
}


def section(name: str, given: argparse.Namespace, scratch: Path) -> str:
    """Markdown of one section; if it fails, the last line of its error."""
    seconds, made = SECTIONS[name]
    begin = time.monotonic()
    try:
        patience = 4 if given.tiny else 1  # a test shares its cores with others
        lines = made(Task(given.device, given.tiny, scratch, begin + seconds * patience))
    except Exception as error:  # the other sections do not depend on it
        lines = ["| failed |", "| --- |", f"| {_cell(f'{type(error).__name__}: {error}'.strip().splitlines()[-1])} |"]
    return "\n".join([f"## {name.capitalize()}", "", *lines, "", f"{time.monotonic() - begin:.0f} s.", ""])


def main() -> None:
    """Write the sections that were asked for, in their order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and few rows")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        _show(f"# One card\n\n`python bench/gpu.py {' '.join(sys.argv[1:])}`. {environment()}\n", given.out)
        for name in SECTIONS:
            if name in given.only:
                _show(section(name, given, Path(scratch)), given.out)


def _show(text: str, out: Path | None) -> None:
    """At once, so that what was measured is there if the machine is taken away."""
    print(text, flush=True)
    publish(f"{text}\n", out)


if __name__ == "__main__":
    main()
