"""A cluster of Ray: a new one of this machine alone, or an existing one, and the places that it has room for."""

import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from tunewise.errors import AGAIN, MachineError, SpecError, clause
from tunewise.executors.local.shares import usable_cores
from tunewise.spec import MachineSpec

Node = Mapping[str, float]  # resources of a machine in the cluster, by Ray's names

# Variables that Ray reads when it is imported, or when it starts.
QUIET = {"RAY_DEDUP_LOGS_SKIP_REGEX": "."}  # it would print on standard output that a worker died
ALONE = {  # of a cluster on this machine alone
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every port is bound to the loopback, as on these two systems
    "RAY_AUTH_MODE": "token",  # other users of this machine cannot use the cluster, and no token is written to ~/.ray
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # a run for which memory runs out ends as it does without Ray
}
SMALLEST_STORE = 80 * 2**20  # bytes of shared memory for texts; Ray's own minimum is 75 MiB
SHORT_FOLDER = "/tmp"  # the path of a socket has at most 107 bytes, of which Ray uses 65
REACH_SECONDS = 5.0  # for the first connection; Ray would try for a minute


class Demand(NamedTuple):
    """What one place needs of its node."""

    cpus: int
    gpus: int

    def places(self, nodes: Sequence[Node]) -> int:
        """Number of places that these nodes hold at the same time."""
        return sum(
            min(int(node.get("CPU", 0) // self.cpus), int(node.get("GPU", 0)) if self.gpus else sys.maxsize)
            for node in nodes
        )

    def __str__(self) -> str:
        return f"{self.cpus} CPU{'s' * (self.cpus != 1)}" + " and 1 GPU" * self.gpus


def imported_ray() -> Any:
    """The package. Raises SpecError if it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise SpecError(
            "machine.executor is ray, but the package ray is not installed. Install it: pip install 'tunewise[ray]'"
        ) from error
    return ray


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Inside, this process may use a cluster. None: the one it uses already, else a new one of this machine alone.

    Raises SpecError if `address` is none, and MachineError if no cluster starts or answers there.
    """
    if address is not None:
        _require_reachable(address)
    with _environment(QUIET):
        ray = imported_ray() if address or "ray" in sys.modules else None
        if ray and ray.is_initialized():  # the caller's own
            yield
        elif address is None:
            with _alone() as options, _connected(options):
                yield
        else:
            with _connected({"address": address}, f"no Ray cluster answers at {address}"):
                yield


@contextmanager
def _connected(options: dict[str, Any], failure: str = "no Ray cluster could be started here") -> Iterator[None]:
    ray = imported_ray()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            with _apart():
                ray.init(**options, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # the boundary to Ray, which raises many kinds
            told = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise MachineError(f"{failure}: {clause(told)[:300]}. {AGAIN}") from error
        finally:
            _restore(before)
        yield
    finally:
        ray.shutdown()
        _restore(before)


@contextmanager
def _alone() -> Iterator[dict[str, Any]]:
    """Options of a cluster of this machine alone, which nobody else can reach. Its files are deleted at the end."""
    if "ray" in sys.modules and not _token.cache_info().currsize:
        raise SpecError(
            "ray was imported before the study began, and has read its settings already. Start the cluster yourself "
            "with ray.init(), which tunewise then uses, or import ray later."
        )
    folder = tempfile.mkdtemp(prefix="tunewise-ray-", dir=os.environ.get("RAY_TMPDIR") or SHORT_FOLDER)
    try:
        with _environment({**ALONE, "RAY_AUTH_TOKEN": _token()}):
            yield {
                "address": "local",  # not one that RAY_ADDRESS names, or that somebody else left in /tmp/ray
                "num_cpus": usable_cores(),
                "include_dashboard": False,
                "object_store_memory": SMALLEST_STORE,
                "_temp_dir": folder,
            }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _token() -> str:
    """Secret of the clusters that this process starts. Ray reads it once."""
    return secrets.token_hex(32)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _apart() -> Iterator[None]:
    """Inside, the current folder is that of the system, and there is no script.

    Ray adds the current folder and that of the script to the import path of its workers, where a `pydantic.py` beside
    the data would be run.
    """
    script = sys.argv[0]
    with contextlib.chdir("/"):
        sys.argv[0] = ""
        try:
            yield
        finally:
            sys.argv[0] = script


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    """Ray sets a handler of its own, which would end this process without its clean-up."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _require_reachable(address: str) -> None:
    """Raise an error unless something listens at `address`, HOST:PORT; `auto` is found by Ray."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not host or "/" in host or not port.isdecimal():
        raise SpecError(
            f"--ray-address is '{address:.100}'. Allowed: auto, for the cluster on this machine, or HOST:PORT "
            "as `ray start --head` printed it. Clients (ray://...) are not supported: give the command on a machine of "
            "the cluster."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise MachineError(
            f"no Ray cluster answers at {address}: {clause(error)}. Check the address, or start one with "
            "`ray start --head` there."
        ) from error


def nodes() -> list[Node]:
    """Resources of every living machine of the cluster."""
    return [node["Resources"] for node in imported_ray().nodes() if node["Alive"]]


def shared_by(
    nodes: Sequence[Node], machine: MachineSpec, known_threads: Callable[[], int | None]
) -> tuple[MachineSpec, Demand, int]:
    """Settings of each run, what a place needs, and the number of places.

    A place has a GPU if the cluster has one, else as many cores as a run has threads. `known_threads`: of the runs
    that the study folder holds already. Raises SpecError if the cluster has no room for so many places.
    """
    has_gpus = any(node.get("GPU", 0) >= 1 for node in nodes)
    if machine.device == "cuda" and not has_gpus:
        raise SpecError("machine.device is cuda, but no node of the Ray cluster has a GPU. Remove the key, or add one.")
    if has_gpus and machine.device != "cpu":
        demand = Demand(cpus=1, gpus=1)
        return machine, demand, _number(machine, demand, nodes)
    most = max((int(node.get("CPU", 0)) for node in nodes), default=0)
    threads = machine.threads or known_threads()
    if threads is None and machine.workers == "auto":
        threads = min((int(n) for node in nodes if (n := node.get("CPU", 0)) >= 1), default=1)
    elif threads is None:
        enough = (n for n in range(most, 1, -1) if Demand(n, 0).places(nodes) >= int(machine.workers))
        threads = next(enough, 1)
    demand = Demand(cpus=threads, gpus=0)
    return machine.replace(threads=threads), demand, _number(machine, demand, nodes)


def _number(machine: MachineSpec, demand: Demand, nodes: Sequence[Node]) -> int:
    most = demand.places(nodes)
    asked = max(most, 1) if machine.workers == "auto" else machine.workers
    if asked > most:
        has = "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes[:10])
        raise SpecError(
            f"the Ray cluster has room for {most} of the {asked} workers asked for, which need {demand} each. Its "
            f"nodes have: {has}. "
            + (f"Allowed: machine.workers 1 to {most}, or auto." if most else "Lower machine.threads, or add nodes.")
        )
    return asked
