"""Kills parts of a Ray cluster of two nodes at random moments of a tiny study; says how often it ended the same.

    python tests/chaos/chaos_ray.py [--kills 60] [--seed 0] [--kinds place,server,node,driver]

A kill is a SIGKILL of the actor that holds a place, of its server, of a node (its raylet; another node replaces it), or
of the command, which is then given again until the study ends. The exit status is 1 if any study differs from one that
was made without Ray and not disturbed.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
import ray
import yaml
from chaos_study import chaos_study, made_alike
from ray.cluster_utils import Cluster

KILLS_A_STUDY = 4
MOST_COMMANDS = 20  # for one study
KINDS = ("place", "server", "node", "driver")
TITLES = {"place": "ray::Place", "server": "tunewise.executors.local.server"}


class Nodes:
    """Two nodes with a core each, and a head that makes no runs."""

    def __init__(self) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address = self.cluster.address
        self.workers = [self._added(), self._added()]

    def _added(self) -> Any:
        return self.cluster.add_node(num_cpus=1, include_dashboard=False)

    def lose(self, index: int) -> None:
        """Kill a node, and add another one."""
        node = self.workers[index]
        node.all_processes["raylet"][0].process.kill()
        self.cluster.remove_node(node, allow_graceful=False)
        self.workers[index] = self._added()

    def processes(self, kind: str) -> list[psutil.Process]:
        """Living processes of that kind on both nodes."""
        found = []
        for node in self.workers:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        if TITLES[kind] in " ".join(child.cmdline()):
                            found.append(child)
        return found


def main() -> int:
    """The exit status."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--kills", type=int, default=60)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--kinds", default=",".join(KINDS))
    given = asked.parse_args()
    with TemporaryDirectory() as name:
        place = Path(name)
        study = chaos_study(place).model_dump(mode="json", exclude_unset=True)
        (place / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
        assert started(place, "whole").wait() == 0, "a study without Ray ends"
        nodes = Nodes()
        try:
            return (
                1 if kill_at_random(place, nodes, given.kills, random.Random(given.seed), given.kinds.split(",")) else 0
            )
        finally:
            ray.shutdown()
            nodes.cluster.shutdown()


def started(place: Path, name: str, address: str | None = None) -> "subprocess.Popen[bytes]":
    """The command, in a process of its own."""
    command = [sys.executable, "-P", "-m", "tunewise", "compare", str(place / "study.yaml"), "--out", str(place / name)]
    if address:
        command += ["--executor", "ray", "--ray-address", address, "--workers", "2"]
    with (place / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=place, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def kill_at_random(place: Path, nodes: Nodes, num_kills: int, draw: random.Random, kinds: list[str]) -> int:
    """How many studies did not end as the undisturbed one; prints each."""
    begun = time.monotonic()
    assert started(place, "calm", nodes.address).wait() == 0, (place / "calm.log").read_text()
    seconds, whole = time.monotonic() - begun, made_alike(place / "whole")
    wrong = int(made_alike(place / "calm") != whole)
    print(f"on Ray, not disturbed, in {seconds:.0f} s: {'differs' if wrong else 'the same'}", flush=True)
    killed: Counter[str] = Counter()
    studies = 0
    while killed.total() < num_kills:
        name = f"broken-{studies}"
        kills = disturbed(place, name, nodes, seconds, [draw.choice(kinds) for _ in range(KILLS_A_STUDY)], draw)
        killed.update(kills)
        studies += 1
        made = made_alike(place / name)
        if made != whole:
            wrong += 1
            other = {what: (made.get(what), whole.get(what)) for what in made | whole}
            found = {what: pair for what, pair in other.items() if pair[0] != pair[1]}
            print(f"differs after {kills}, made and expected: {found}", flush=True)
        else:
            print(f"the same after {kills}", flush=True)
        shutil.rmtree(place / name)
    print(f"{dict(killed)} kills in {studies} studies: {studies - wrong} of {studies} end bit-identical")
    return wrong


def disturbed(place: Path, name: str, nodes: Nodes, seconds: float, kinds: list[str], draw: random.Random) -> list[str]:
    """The kills that hit something, until the study ended."""
    kills: list[str] = []
    for _ in range(MOST_COMMANDS):
        command = started(place, name, nodes.address)
        while kinds:
            with contextlib.suppress(subprocess.TimeoutExpired):
                command.wait(draw.uniform(0, seconds / KILLS_A_STUDY))
            if command.poll() is not None:
                break
            kind = kinds.pop()
            if kind == "driver":
                command.kill()
            elif kind == "node":
                nodes.lose(draw.randrange(2))
            elif found := nodes.processes(kind):
                with contextlib.suppress(psutil.Error):
                    draw.choice(found).kill()
            else:
                continue
            kills.append(kind)
        if command.wait() == 0:
            return kills
    raise AssertionError(f"{MOST_COMMANDS} commands did not end the study: {(place / f'{name}.log').read_text()}")


if __name__ == "__main__":
    sys.exit(main())
