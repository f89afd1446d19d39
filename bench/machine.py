"""The machine and the versions behind a measurement, as lines of Markdown."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl")


def environment() -> str:
    """Processor, cores, memory, versions."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    memory = psutil.virtual_memory().total / 2**30
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{_processor()}, {psutil.cpu_count(logical=True)} cores, {memory:.0f} GiB{gpu}; {platform.system()}, "
        f"Python {platform.python_version()}, {', '.join(found)}."
    )


def publish(text: str, out: Path | None) -> None:
    """Append what was measured to a file, where one is named."""
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(text)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
