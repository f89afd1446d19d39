"""What a run costs: memory of its phases, and what other processes take of the machine meanwhile."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tunewise.lab import machine
from tunewise.lab.placement import Placement
from tunewise.lab.train import meters


@pytest.mark.parametrize(
    ("busy", "own", "share"), [(10.0, 10.0, 0.0), (10.0, 4.0, 0.3), (20.0, 0.0, 1.0), (9.9, 10.0, 0.0)]
)
def test_others_have_what_the_machine_worked_and_the_run_did_not(
    busy: float, own: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cores for 10 s have 20 s to give; idle and waiting time is no work, and rounding makes no negative share."""
    clock: dict[str, Any] = {"user": 100.0, "system": 5.0, "idle": 1.0, "iowait": 1.0, "own": 3.0, "now": 50.0}
    kinds = ("user", "system", "idle", "iowait")
    times = SimpleNamespace(_asdict=lambda: {kind: clock[kind] for kind in kinds})
    monkeypatch.setattr(machine.psutil, "cpu_times", lambda: times)
    monkeypatch.setattr(machine.time, "process_time", lambda: clock["own"])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 2)
    others = machine.OthersMeter()
    clock.update(user=100 + 0.9 * busy, system=5 + 0.1 * busy, idle=8.0, iowait=4.0, own=3 + own, now=60.0)
    assert others.share(Placement()) == pytest.approx(share)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the peak of the whole process is known")
def test_a_phase_does_not_count_what_was_freed_before_it() -> None:
    """128 MB in pieces that the C library keeps when they are freed, because every hundredth stays."""
    meter = meters.MemoryMeter("cpu")
    pieces = [bytearray(b"x") * 65_000 for _ in range(2_000)]
    assert len(pieces[0]) == 65_000
    pieces = pieces[::100]
    with meter.phase("train"):
        pass
    peak = meter.memory("train")
    assert peak is not None
    assert peak.above_start_bytes is not None
    assert peak.above_start_bytes < 64_000_000
    assert len(pieces) == 20
