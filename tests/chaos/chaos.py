"""Kills a tiny study at random moments and at every operation on the disk; says how often it ended the same.

    python tests/chaos/chaos.py [--kills 200] [--seed 0]

A kill is a SIGKILL, at a moment drawn evenly over the time that the study takes; then the same command again, until the
study ends. The exit status is 1 where anything differs from a study that was not disturbed.
"""

import argparse
import os
import random
import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers
from chaos_study import Deaths, chaos_study, finish, killed_after, outcome, visited, write_report_alone

from tunewise.spec import StudySpec

KILLS_A_STUDY = 4  # before it is left to end


def main() -> int:
    """The exit status."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--kills", type=int, default=200)
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    with TemporaryDirectory() as place:
        study = chaos_study(Path(place))
        lost = kill_at_random(study, Path(place), given.kills, given.seed)
        lost += die_at_every_operation(study, Path(place))
    return 1 if lost else 0


def kill_at_random(study: StudySpec, place: Path, num_kills: int, seed: int) -> int:
    """How many studies did not end as the undisturbed one; prints each."""
    begun = time.monotonic()
    finish(study, place / "whole")
    seconds, whole = time.monotonic() - begun, outcome(place / "whole")
    draw, killed, studies, wrong = random.Random(seed), 0, 0, []
    while killed < num_kills:
        folder = place / f"broken-{studies}"
        moments = [draw.uniform(0, seconds) for _ in range(min(KILLS_A_STUDY, num_kills - killed))]
        killed += sum(killed_after(moment, study, folder) for moment in moments)
        finish(study, folder)
        studies += 1
        if outcome(folder) != whole:
            wrong.append(moments)
            print(f"differs after kills at {moments} s")
        shutil.rmtree(folder)
    print(
        f"{killed} kills at random moments of {seconds:.1f} s (seed {seed}), {studies} studies: "
        f"{studies - len(wrong)} of {studies} end bit-identical"
    )
    return len(wrong)


def die_at_every_operation(study: StudySpec, place: Path) -> int:
    """How many deaths were not continued to the same result; prints each."""
    deaths = Deaths(place / "visited", place)
    with visited(deaths.visit):
        finish(study, deaths.folder, write_report_alone)
    whole, wrong = outcome(deaths.folder), 0
    for happening, folder in deaths.left.items():
        finish(study, folder, write_report_alone)
        if outcome(folder) != whole:
            wrong += 1
            print(f"differs after a death at operation {happening}")
        shutil.rmtree(folder)
    print(
        f"{deaths.num_points} places to die at, {len(deaths.left)} of them with a folder of their own: "
        f"{len(deaths.left) - wrong} of {len(deaths.left)} end bit-identical"
    )
    return wrong


if __name__ == "__main__":
    sys.exit(main())
