"""Client of places on a cluster of Ray, which keeps the laws of every executor."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tunewise.errors import AGAIN, MachineError, TunewiseError, clause
from tunewise.executors.base import Job, LostPlaceError, RunJob
from tunewise.executors.ray.cluster import Demand, imported_ray, nodes
from tunewise.executors.ray.place import OUTCOME, THREADS, Place, Raised
from tunewise.records import events
from tunewise.records.events import Event

PAUSE_SECONDS = 1.0  # between two looks at a cluster that has no room yet
PATIENCE_SECONDS = 30.0  # after which places that do nothing give their room to one that waits


class RayPlaces:
    """All places of one study, which share the room of a cluster."""

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self.lock = threading.Lock()
        self.all: list[RayExecutor] = []

    def open(self) -> "RayExecutor":
        """Another place. Its actor starts with its first job."""
        self.all.append(place := RayExecutor(self))
        return place

    def give_room(self) -> None:
        """End the actors that do nothing, for one that waits: after the loss of a node there are too many."""
        with self.lock:
            for place in self.all:
                if place.is_idle:
                    place.release()


class RayExecutor:
    """A place somewhere in the cluster: an actor with a server, started again after it was lost."""

    def __init__(self, places: RayPlaces) -> None:
        self.ray = imported_ray()
        self.places = places
        self.is_stopping = False
        self.is_idle = True
        self._job: Job | None = None
        self._actor: Any = None  # None: it is not started, or was lost

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """End the actor. That also ends its server and run, by their lifeline."""
        actor, self._actor = self._actor, None
        if actor is not None and self.ray.is_initialized():
            self.ray.kill(actor)

    def stop(self) -> bool:
        """Ask the current run to save and stop; False if there is none, or it was asked before."""
        if self.is_stopping or not isinstance(self._job, RunJob):
            return False
        self.is_stopping = True
        if (actor := self._actor) is not None:
            actor.stop.remote()
        return True

    def submit(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """Events of the jobs, one job after another, each up to its `End`. Raises KeyboardInterrupt after a `stop`."""
        for job in jobs:
            self._job = job
            with self.places.lock:
                self.is_idle = False
            try:
                yield from self._do(job)
            except self.ray.exceptions.RayError as error:
                self.release()
                raise self._lost(error) from error
            finally:
                self._job = None
                self.is_idle = True
            if self.is_stopping:
                raise KeyboardInterrupt

    def _do(self, job: Job) -> Iterator[Event]:
        actor = self._ready()
        for reference in actor.do.options(num_returns="streaming").remote(job.model_dump_json()):
            match OUTCOME.validate_json(self.ray.get(reference)):
                case Raised() as raised:
                    self.release()
                    raise raised.error()
                case events.End() as end:
                    self._job = None
                    yield end
                case event:
                    yield event

    def _ready(self) -> Any:
        """The actor, once the cluster has room for it."""
        if self._actor is None:
            options = {"num_cpus": self.places.demand.cpus, "num_gpus": self.places.demand.gpus}
            actor = self.ray.remote(Place).options(**options, max_restarts=0, max_task_retries=0, max_concurrency=2)
            self._actor = actor.remote(str(Path.cwd()), os.environ.get(THREADS))
        started, since = self._actor.ready.remote(), time.monotonic()
        while not self.ray.wait([started], timeout=PAUSE_SECONDS)[0]:
            if self.is_stopping:
                self.release()
                raise KeyboardInterrupt
            if time.monotonic() - since > PATIENCE_SECONDS:
                self.places.give_room()
            if not self.places.demand.places(nodes()):
                self.release()
                raise MachineError(
                    f"no node of the Ray cluster is left that has {self.places.demand} for a run. Add one. {AGAIN}"
                )
        self.ray.get(started)
        if self.is_stopping:  # asked when there was no actor to tell
            raise KeyboardInterrupt
        return self._actor

    def _lost(self, error: Exception) -> BaseException:
        """What to raise for an error of Ray."""
        if self.is_stopping:
            return KeyboardInterrupt()
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        told = clause(lines[0])[:300]
        if getattr(error, "actor_init_failed", False):
            told = clause(lines[-1])[:300]  # the error itself, below its traceback
            return MachineError(
                f"a place on the Ray cluster cannot start: {told}. Check that tunewise is installed on every node, and "
                "that every node sees the current folder."
            )
        if isinstance(error, self.ray.exceptions.RayTaskError):
            return TunewiseError(f"a place on the Ray cluster failed: {told}")
        return LostPlaceError(f"a place on the Ray cluster was lost: {told}. {AGAIN}")
