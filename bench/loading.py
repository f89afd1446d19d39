"""Memory of loading a base whose checkpoint is bf16: narrow, as a run of LoRA loads it, and whole, in fp32.

python bench/loading.py [--layers 10] [--out FILE]

Writes a random Llama-shaped model (0.95 GB with 10 layers), and loads it in a process of its own each way. The peak is
the highest resident memory above that before loading, seen once a millisecond: without the pages of the mapped file,
which the system takes back when memory is short, and with them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from machine import environment, publish
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

LOAD = """
import json, sys, threading, time
from transformers import AutoTokenizer
from tunewise.lab.models.load import load_base

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024

def watch():
    while not done:
        own.append(status("RssAnon"))
        time.sleep(0.001)

own, done = [], []
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
before, own_before = status("VmRSS"), status("RssAnon")
watcher = threading.Thread(target=watch)
watcher.start()
base = load_base(sys.argv[1], "sft", (), tokenizer, False, sys.argv[3] == "narrow")
done.append(True)
watcher.join()
held = sum(p.nbytes for p in base.model.parameters())
print(json.dumps({"own": max(own) - own_before, "peak": status("VmHWM") - before, "held": held,
                  "largest": max(4 * p.numel() for p in base.model.parameters())}))
"""


def main() -> None:
    """Write the model, load it both ways, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    tokenizer = Path(__file__).parents[1] / "src" / "tunewise" / "assets" / "tiny"
    lines = ["| | checkpoint | weights held | largest tensor in fp32 | peak | with the mapped file |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        config = LlamaConfig(
            vocab_size=32_000, hidden_size=1536, intermediate_size=6144, num_hidden_layers=given.layers,
            num_attention_heads=16, num_key_value_heads=16,
        )  # fmt: skip
        torch.set_default_dtype(torch.bfloat16)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
        size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        for how in ("narrow", "whole"):
            command = [sys.executable, "-c", LOAD, folder, str(tokenizer), how]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(said.splitlines()[-1])
            cells = (size, found["held"], found["largest"], found["own"], found["peak"])
            lines.append(f"| {how} | " + " | ".join(f"{value / 1e9:.2f} GB" for value in cells) + " |")
    text = "\n".join(lines) + f"\n\n{environment()}\n"
    print(text)
    publish(text, given.out)


if __name__ == "__main__":
    main()
