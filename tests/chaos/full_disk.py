"""A tiny study on disks that are really too small, and again once there is room, as JSON: what was said on each, and
whether it ended as on a disk with room.

    unshare --mount python tests/chaos/full_disk.py FOLDER KILOBYTES...

Mounts disks of these sizes, which only this process sees.
"""

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers
from chaos_study import chaos_study, finish, outcome, write_report_alone

from tunewise.errors import StudyError
from tunewise.spec import StudySpec


def mount(place: Path, kilobytes: int, *more: str) -> None:
    """A disk of that size, or the one that is there with another size."""
    options = ",".join([f"size={kilobytes}k", *more])
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=True)


def on_small_disk(study: StudySpec, place: Path, kilobytes: int) -> tuple[str | None, bool]:
    """What was said when the disk was full; and whether the runs that were done by then are the same afterwards."""
    place.mkdir()
    mount(place, kilobytes)
    said = None
    try:
        finish(study, place / "study", write_report_alone)
    except StudyError as error:
        said = str(error)
    done = {path: path.read_bytes() for path in place.glob("study/runs/*/record.json")}
    mount(place, 100_000, "remount")
    finish(study, place / "study", write_report_alone)
    return said, all(path.read_bytes() == content for path, content in done.items())


def main() -> None:
    """Print what happened on each."""
    folder, sizes = Path(sys.argv[1]), [int(size) for size in sys.argv[2:]]
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    study = chaos_study(folder)
    # with checkpoints the records would tell that there was no room for some
    study = study.replace(machine={**study.machine.model_dump(), "checkpoint_seconds": 1000})
    finish(study, folder / "whole", write_report_alone)
    whole, found = outcome(folder / "whole"), []
    for size in sizes:
        said, is_kept = on_small_disk(study, folder / f"{size}", size)
        found.append({"said": said, "is_kept": is_kept, "is_same": outcome(folder / f"{size}" / "study") == whole})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
