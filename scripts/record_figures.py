"""Record the numbers of the figures in docs/learn/ as small Parquet files in docs/figures/data/.

    tunewise quickstart
    python scripts/record_figures.py study runs/quickstart   # seconds
    python scripts/record_figures.py ranks                   # five trainings by examples/finetune_lora.py: 2 minutes
    python scripts/record_figures.py memory                  # the plan of GPT-2: half a minute

Then `python scripts/draw_figures.py` draws the figures.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs" / "figures" / "data"
TINY = ROOT / "src" / "tunewise" / "assets" / "tiny"
RANKS = (1, 4, 16, 64)
ROWS = {"train": 800, "test": 100}
# the best of the quickstart's rates for these methods
RATES = {"full": 3e-3, "lora": 9e-3}


def write(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write one file of records."""
    DATA.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), DATA / f"{name}.parquet")
    print(f"wrote {len(rows)} rows to docs/figures/data/{name}.parquet")


def record_study(folder: str) -> None:
    """Learning rates tried, and the loss on general text during training, of a finished study."""
    report = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    keys = ("learning_rate", "valid_nll", "forgetting", "selected")
    write(
        "rates",
        [{"arm": a["name"], **{k: p[k] for k in keys}} for a in report["arms"] for p in a["learning_rate_curve"]],
    )
    write("forgetting", [{"arm": a["name"], **point} for a in report["arms"] for point in a["forgetting_curve"]])


def record_ranks() -> None:
    """Losses of every step at several ranks and in full, and the singular values of the full update."""
    from tunewise.lab.data.sources.tickets import tickets

    losses, results = [], []
    with tempfile.TemporaryDirectory() as scratch:
        rows = tickets()
        for split, number in ROWS.items():
            lines = [json.dumps(row) + "\n" for row in islice(rows, number)]
            Path(scratch, f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        for name in ("full", *(f"r{rank}" for rank in RANKS)):
            method, out = "full" if name == "full" else "lora", Path(scratch, name)
            command = [sys.executable, ROOT / "examples" / "finetune_lora.py", "--model", TINY, "--data", scratch]
            command += [
                "--method",
                method,
                "--lr",
                str(RATES[method]),
                "--rank",
                name.removeprefix("r") if method == "lora" else "8",
            ]
            subprocess.run([*map(str, command), "--epochs", "1", "--out", str(out)], check=True, capture_output=True)
            result = json.loads((out / "result.json").read_text(encoding="utf-8"))
            losses += [{"name": name, "step": step, "loss": loss} for step, loss in enumerate(result.pop("losses"), 1)]
            results.append({"name": name, **result, "accuracy": None})
        write("losses", losses)
        write("results", results)
        write("spectrum", spectrum(Path(scratch, "full") / "model.safetensors"))


def spectrum(tuned: Path) -> list[dict[str, Any]]:
    """Singular values of the update of every linear layer, largest first."""
    import torch
    from safetensors.torch import load_file

    before, after = load_file(TINY / "model.safetensors"), load_file(tuned)
    layers = [name for name in after if ".c_" in name and name.endswith(".weight")]
    return [
        {"module": name.removeprefix("transformer.").removesuffix(".weight"), "index": index, "value": value}
        for name in layers
        for index, value in enumerate(torch.linalg.svdvals(after[name].float() - before[name].float()).tolist(), 1)
    ]


def record_memory() -> None:
    """Peak memory of a training step of GPT-2 by use, as planned."""
    arms = ["full=full", "lora=lora,rank=8", "qlora=lora,rank=8,base=nf4"]
    command = [
        sys.executable,
        "-m",
        "tunewise",
        "plan",
        "--model",
        "gpt2",
        *(w for arm in arms for w in ("--arm", arm)),
    ]
    said = subprocess.run(
        [*command, "--set", "data.max_length=256", "--no-probe", "--json"], check=True, capture_output=True, text=True
    ).stdout
    planned = json.loads(said)["arms"]
    write(
        "memory", [{"arm": arm, "use": use, "bytes": n} for arm, of in planned.items() for use, n in of["step"].items()]
    )


if __name__ == "__main__":
    part, *arguments = sys.argv[1:] or [""]
    parts = {"study": record_study, "ranks": record_ranks, "memory": record_memory}
    if part not in parts:
        sys.exit(__doc__)
    parts[part](*arguments)
