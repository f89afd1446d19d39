"""Plan of runs on several devices together, in the terminal: memory of a device, and what it receives."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewise.desk.planning.devices import bytes_moved, bytes_of_device, fewest_devices
from tunewise.desk.report.terminal.tables import print_table
from tunewise.records.plan import ArmPlan, StudyPlan
from tunewise.text.numbers import MISSING, size


def print_devices(plan: StudyPlan, numbers: Sequence[int], console: Console) -> None:
    """Print what each of so many devices needs; nothing if no numbers were asked for."""
    if not numbers:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("devices of a run", justify="right", no_wrap=True)
    for name in plan.arms:
        table.add_column(Text(f"{name}: peak of each"), justify="right")
        table.add_column(Text(f"{name}: received in a step"), justify="right")
    for devices in numbers:
        cells = [cell for arm in plan.arms.values() for cell in _cells(arm, plan, devices)]
        table.add_row(str(devices), *map(Text, cells))
    print_table(table, console)
    for name, arm in plan.arms.items():
        console.print(Text(_which_fits(name, arm, plan)))
    console.print(
        Text(
            "The peak is that of a step or of scoring, an upper estimate from the sizes of what is gathered. Each "
            "device loads the whole base first. Nothing was measured on GPUs."
        )
    )


def _cells(arm: ArmPlan, plan: StudyPlan, devices: int) -> tuple[str, str]:
    needed, moved = bytes_of_device(arm, plan, devices), bytes_moved(arm, plan, devices)
    if needed is None:
        return MISSING, MISSING
    is_enough = needed <= plan.memory_bytes
    return size(needed) if is_enough else f"{size(needed)}, too much", size(moved)


def _which_fits(name: str, arm: ArmPlan, plan: StudyPlan) -> str:
    """The smallest number of devices on which the arm fits, in a sentence."""
    room = size(plan.memory_bytes)
    if arm.step is None:
        return f"{name}: not known, because its step could not be planned."
    if devices := fewest_devices(arm, plan):
        each = f"{devices} device" if devices == 1 else f"{devices} devices (machine.devices_per_run: {devices})"
        return f"{name} fits on {each} of {room}."
    if arm.loading and arm.loading > plan.memory_bytes:
        return f"{name} does not fit: each device loads the whole base, {size(arm.loading)}, and has {room}."
    if arm.shards is None:
        return f"{name} does not fit on a device of {room}, and several cannot make its runs together."
    return f"{name} does not fit on 64 devices of {room}."
