"""Is it faster than what users would pick? Every contender does the same work, one after the other, again and again.

python bench/speed.py --data FOLDER [--tokenizer FILE] [--minilm FOLDER] [--work a e] [--rounds 3] [--out FILE]

FOLDER holds generation/e2e_nlg, generation/gsm8k, classification/trec6 and classification/tweet_emotion, each with
train, valid and test as JSONL; FILE is the tokenizer.json of GPT-2. The order of the contenders turns with each round,
so that a machine that slows down slows all of them. Prints, and appends to --out, one table per workload.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gemm import Ceiling, ceiling
from machine import environment, publish
from workloads import WORKLOADS, Workload, save_gpt2_small

from tunewise.desk.protocol import resolve, schedule
from tunewise.lab.data.batching import Example, read_examples, step_rows
from tunewise.lab.methods.targets import resolve_targets
from tunewise.lab.models.load import Base, load_base, load_config, load_tokenizer, model_source
from tunewise.lab.prepare import prepare
from tunewise.lab.weights.precision import pick_precision
from tunewise.storage.ledger import Ledger

CONTENDER = Path(__file__).parent / "contender.py"
NAMES = (
    "tunewise",
    "Trainer + peft, its defaults",
    "Trainer + peft, bf16",
    "Trainer + peft, bf16, grouped by length",
    "TRL SFTTrainer, bf16",
)
OURS, REFERENCE = NAMES[0], NAMES[2]
WARM_UP = 2  # steps whose time does not count


def prepared(work: Workload, model: str, data: Path, scratch: Path) -> tuple[dict[str, Any], Base]:
    """What a contender needs to know (our own schedule's run, where its rows are, the targets), and the base."""
    study = work.study(model, data)
    ledger = Ledger(scratch / "study")
    ledger.create()
    folder = ledger.data_folder(prepare(study, ledger.folder / "data"))
    summary = ledger.data_summary()
    resolved = resolve.resolve(study, summary)
    ledger.store_study(resolved)
    spec = next(spec for spec in schedule.next_runs(resolved, summary, [], ()) if spec.arm == "arm")
    config = load_config(model, summary.task, False)
    base = load_base(model, summary.task, summary.labels, load_tokenizer(model, config, False), False)
    targets = work.arm.get("targets")
    done = {
        "study": str(ledger.folder),
        "data": str(folder),
        "scratch": str(scratch / "other"),
        "spec": {**spec.model_dump(mode="json"), "model": model_source(model)},
        "targets": list(resolve_targets(base, targets).names) if targets else None,
        "num_labels": len(summary.labels),
    }
    return done, base


def contend(name: str, work_file: Path) -> dict[str, Any]:
    """One contender's seconds, losses and peak."""
    out = work_file.with_name("found.json")
    done = subprocess.run(
        [sys.executable, str(CONTENDER), name, str(work_file), str(out)],
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def measure(work: Workload, model: str, given: argparse.Namespace) -> str:
    """The table of one workload."""
    names = [name for name in NAMES if _takes_part(name, work)]
    with tempfile.TemporaryDirectory() as scratch:
        content, base = prepared(work, model, given.data.resolve(), Path(scratch))
        work_file = Path(scratch) / "work.json"
        work_file.write_text(json.dumps(content), encoding="utf-8")
        examples = read_examples(Path(content["data"]) / "train.parquet")
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for turn in range(given.rounds):
            for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
                found[name].append(contend(name, work_file))
                print(f"{work.title}: round {turn + 1}, {name}: {_seconds(found[name][-1:]):.2e} s", file=sys.stderr)
    num_steps = len(examples) / work.batch_size
    tokens, targets = (
        sum(of) / num_steps for of in zip(*((len(e.input_ids), e.num_targets) for e in examples), strict=True)
    )
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[pick_precision("cpu")]
    trains_all = work.arm["method"] == "full"
    bare = ceiling(base.model, round(tokens), round(targets), trains_all, dtype)
    padded = _padded(examples, work, content["spec"]["seed"])
    return table(work, found, (tokens, targets, padded), (bare, ceiling(base.model, padded, padded, trains_all, dtype)))


def _padded(examples: list[Example], work: Workload, seed: int) -> int:
    """Tokens of the mean step with padding, as a trainer pads batches of rows in the order of our run."""
    steps = step_rows(len(examples), work.batch_size, work.num_steps, seed)
    widths = [max(len(examples[row].input_ids) for row in rows) * len(rows) for rows in steps]
    return round(statistics.mean(widths))


def _takes_part(name: str, work: Workload) -> bool:
    return not (name.startswith("TRL") and (work.task != "sft" or find_spec("trl") is None))


def table(
    work: Workload,
    found: dict[str, list[dict[str, Any]]],
    sizes: tuple[float, float, int],
    ceilings: tuple[Ceiling, Ceiling],
) -> str:
    """Markdown: seconds, ratio, losses, memory; and what of the ceilings, without and with padding, was reached."""
    bare, padded = ceilings
    step = {name: _seconds(rounds) * sizes[0] for name, rounds in found.items()}
    reference, ours = step[REFERENCE], step[OURS]
    lines = [
        f"## {work.title}",
        "",
        f"{work.num_steps} steps of {work.batch_size} rows, in the mean {sizes[0]:.0f} tokens and {sizes[1]:.0f} "
        f"targets a step ({sizes[2]} tokens with padding). Seconds for so many tokens: all seconds over all tokens, "
        f"the first steps left out; median of {len(found[OURS])} rounds.",
        "",
        "| contender | s a step | against bf16 Trainer | tunewise is faster by | first loss | last loss | peak GiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, rounds in found.items():
        seconds, last = step[name], rounds[-1]
        peak = max(one["peak_bytes"] for one in rounds) / 2**30
        lines.append(
            f"| {name} | {seconds:.3f} | {reference / seconds:.2f}x | {seconds / ours:.2f}x "
            f"| {last['losses'][0]:.3f} | {last['losses'][-1]:.3f} | {peak:.2f} |"
        )
    lines += [
        "",
        f"Ceiling: the bare matrix products of a step are {bare.flops / 1e9:.0f} GFLOP and take {bare.seconds:.3f} s "
        f"here ({bare.rate / 1e9:.0f} GFLOP/s), which is {bare.seconds / ours:.0%} of tunewise's step. With padding, "
        f"and the head on every token, they take {padded.seconds:.3f} s, {padded.seconds / bare.seconds:.2f} times as "
        f"long; {REFERENCE} takes {reference / ours:.2f} times as long.",
        "",
    ]
    return "\n".join(lines)


def _seconds(rounds: list[dict[str, Any]]) -> float:
    """Of a token, not of a step: who sorts rows by length has small steps and large ones."""
    by_round = []
    for one in rounds:
        timed = list(zip(one["seconds"], one["tokens"], strict=True))[WARM_UP:]
        by_round.append(sum(seconds for seconds, _ in timed) / sum(tokens for _, tokens in timed))
    return statistics.median(by_round)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="of GPT-2, for workloads a, b, e")
    parser.add_argument("--minilm", type=Path, help="a folder of all-MiniLM-L6-v2, for workloads c, c2")
    parser.add_argument("--work", nargs="+", choices=sorted(WORKLOADS), default=sorted(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as models:
        tables = [f"{environment()}\n"]
        for key in given.work:
            work = WORKLOADS[key]
            needed = {"gpt2": given.tokenizer, "minilm": given.minilm}
            if needed.get(work.model, "nothing") is None:
                parser.error(f"workload {key} needs --{'tokenizer' if work.model == 'gpt2' else 'minilm'}")
            model = {
                "gpt2": lambda: str(save_gpt2_small(Path(models) / "gpt2", given.tokenizer)),
                "minilm": lambda: str(given.minilm),
            }.get(work.model, lambda work=work: work.model)()
            tables.append(measure(work, model, given))
            print(tables[-1])
    publish("\n".join(tables), given.out)


if __name__ == "__main__":
    main()
