"""Print two or more results of finetune_lora.py next to each other.

python compare.py results/full results/lora
"""

import json
import sys
from pathlib import Path
from typing import Any

SHOWN = {
    "method": "{}",
    "learning_rate": "{:g}",
    "nll": "{:.4f}",
    "perplexity": "{:.3f}",
    "accuracy": "{:.2%}",
    "trainable_parameters": "{:,}",
    "trainable_share": "{:.4%}",
    "train_seconds": "{:.1f}",
    "peak_memory_mib": "{:,}",
    "bytes_on_disk": "{:,}",
}


def table(results: list[dict[str, Any]]) -> str:
    """A row for each measure that any result has, a column for each result."""
    rows = [
        [name, *(form.format(result[name]) if name in result else "-" for result in results)]
        for name, form in SHOWN.items()
        if any(name in result for result in results)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))] for row in rows
    ]
    return "\n".join("  ".join(line) for line in lines)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    print(table([json.loads((Path(folder) / "result.json").read_text(encoding="utf-8")) for folder in sys.argv[1:]]))
