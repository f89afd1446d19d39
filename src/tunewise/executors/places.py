"""Several places at which runs are made at the same time, one run at each."""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tunewise.executors.attempts import Attempts
from tunewise.executors.base import Executor, LostPlaceError
from tunewise.executors.local.lifeline import stop_signals
from tunewise.records import MAX_ATTEMPTS, RunRecord, events
from tunewise.records.events import Event, Listener
from tunewise.spec import MachineSpec, RunSpec
from tunewise.storage.files import is_there
from tunewise.storage.ledger import RECORD, Ledger


class Room(NamedTuple):
    """Memory of the machine that all places share, and what a run of each arm needs, in bytes."""

    capacity: int
    needs: Mapping[str, int]

    def holds(self, arms: Sequence[str]) -> bool:
        """Whether runs of these arms fit at the same time. Nothing is known of arms without a need."""
        return sum(self.needs.get(arm, 0) for arm in arms) <= self.capacity


class Ended(NamedTuple):
    """A run that is no longer under way, and how it ended: with a record, or with an error."""

    spec: RunSpec
    executor: Executor
    outcome: RunRecord | BaseException


class Places:
    """Executors that each make one run at a time, each in a thread of its own. Used by one thread.

    Only the thread that calls `ended` hears events, so listeners need no locks. `openers` make the executors, which are
    opened when they are needed. Inside `with`, a Ctrl-C or SIGTERM lets every run save and stop, then `ended` raises
    KeyboardInterrupt; a second one ends them at once. `greet` checks a place before its first job (handshake.py); None:
    the places are this machine.
    """

    def __init__(
        self,
        openers: Sequence[Callable[[], Executor]],
        ledger: Ledger,
        machine: MachineSpec,
        listener: Listener,
        greet: Callable[[Executor, Path], object] | None = None,
    ) -> None:
        self.ledger, self.machine, self.listener = ledger, machine, listener
        self.num_places = len(openers)
        self._greet = greet
        self.is_one_machine = True  # all places share the memory of one machine
        self.room: Room | None = None  # None: each place has its own machine, or nothing is known
        self.under_way: dict[str, RunSpec] = {}  # by run id
        self._crowded: set[str] = set()  # ids of runs under way that were not alone all the time
        self._alone: str | None = None  # id of a run under way beside which nothing may start
        self._losses: Counter[str] = Counter()  # by run id: how often its place was lost
        self._closed = list(openers)  # of places that are not open yet
        self._open: dict[Executor, Callable[[], Executor]] = {}
        self._free: list[Executor] = []
        self._met: set[Executor] = set()
        self._told: queue.SimpleQueue[Event | Ended] = queue.SimpleQueue()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def first(self) -> Executor:
        """The place that does all jobs but runs."""
        if not self._open:
            self._free.append(executor := self._opened())
            self._meet(executor)
        return next(iter(self._open))

    def may_start(self, spec: RunSpec) -> bool:
        """Whether a place is free, and the run can share the machine with those under way."""
        if not self.under_way:
            return True
        if not (self._free or self._closed) or self._alone in self.under_way or self._is_alone(spec):
            return False
        return self.room is None or self.room.holds([of.arm for of in (spec, *self.under_way.values())])

    def _is_alone(self, spec: RunSpec) -> bool:
        """Whether nothing may run beside this run: it is timed, or what ran beside it may be why it was lost before."""
        was_lost = is_there(self.ledger.run_folder(spec.run_id) / RECORD)
        return was_lost or (self.machine.exclusive_timing and spec.role == "confirm")

    def start(self, spec: RunSpec, data_folder: Path) -> None:
        """Begin or resume a run at a free place."""
        executor = self._free.pop(0) if self._free else self._opened()
        self._alone = spec.run_id if self._is_alone(spec) else None
        self._crowded.discard(spec.run_id)
        self.under_way[spec.run_id] = spec
        if len(self.under_way) > 1:
            self._crowded.update(self.under_way)
        attempts = Attempts(executor, self.ledger, self.machine, self._told.put, self._crowded.__contains__)

        def make() -> None:
            outcome: RunRecord | BaseException
            try:
                self._meet(executor)
                outcome = attempts.run(spec, data_folder)
            except BaseException as error:  # the boundary of the thread: raised again by `ended`
                outcome = error
            self._told.put(Ended(spec, executor, outcome))

        threading.Thread(target=make, daemon=True, name=f"run {spec.run_id}").start()

    def ended(self) -> RunRecord | None:
        """Record of the run that ends next, or None if its place was lost: then the run can start again.

        The listener hears all events up to that end. Raises what the executor raises: after a `stop` that is
        KeyboardInterrupt, once all runs have ended.
        """
        end = self._next()
        if isinstance(end.outcome, LostPlaceError) and self._is_replaced(end):
            self.listener(events.Moved(run=end.spec.run_id, message=str(end.outcome)))
            return None
        self._free.append(end.executor)
        if isinstance(end.outcome, KeyboardInterrupt):
            while self.under_way:  # they save what they have
                self._next()
        if isinstance(end.outcome, BaseException):
            raise end.outcome
        return end.outcome

    def _is_replaced(self, end: Ended) -> bool:
        """True if the lost place can be opened again: it is not this machine's only one, nor does this run lose all."""
        self._losses[end.spec.run_id] += 1
        is_only = self.num_places == 1 and self._greet is None
        if is_only or self._losses[end.spec.run_id] >= MAX_ATTEMPTS:
            return False
        self._closed.append(self._open.pop(end.executor))
        return True

    def stop(self) -> bool:
        """Ask all runs to save and stop; False if there are none, or all were asked before."""
        asked = [executor.stop() for executor in list(self._open)]
        return any(asked)

    def abandon(self) -> None:
        """End all runs at once; what they saved stays."""
        self._stack.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    def _meet(self, executor: Executor) -> None:
        """Greet a place that is new. Raises MachineError if it cannot make runs of this study."""
        if self._greet and executor not in self._met:
            self._greet(executor, self.ledger.folder)
            self._met.add(executor)

    def _next(self) -> Ended:
        while not isinstance(told := self._told.get(), Ended):
            self.listener(told)
        del self.under_way[told.spec.run_id]
        return told

    def _opened(self) -> Executor:
        opener = self._closed.pop(0)
        executor = self._stack.enter_context(opener())
        self._stack.enter_context(stop_signals(self.stop))  # of all places, not of this one
        self._open[executor] = opener
        return executor
