"""Memory and traffic of one run on several devices, from the plan of the same run on one (FSDP2).

Every device keeps 1/k of each weight, gradient and moment. It gathers a layer when it computes it, and in the backward
pass the next one as well. A layer's gradient is whole until it has been added up, in a copy. The head stays gathered.
"""

import math

from tunewise.errors import SpecError
from tunewise.records.plan import ArmPlan, Gathered, StudyPlan

MOST_DEVICES = 1024
TRIED = (1, 2, 4, 8, 16, 32, 64)


def parse_devices(text: str) -> tuple[int, ...]:
    """Numbers of devices from a list such as '1,2,4,8', in rising order. Raises SpecError."""
    numbers = [part.strip() for part in text.split(",")]
    if all(part.isascii() and part.isdigit() and 1 <= int(part[:9]) <= MOST_DEVICES for part in numbers):
        return tuple(sorted({int(part) for part in numbers}))
    raise SpecError(
        f"--devices: a list of numbers from 1 to {MOST_DEVICES}, separated by commas, but got {text[:80]!r}. "
        "For example: --devices 1,2,4,8"
    )


def bytes_of_device(arm: ArmPlan, plan: StudyPlan, devices: int) -> int | None:
    """Peak of one of several devices, in a step or in scoring, but for loading; None: not known, or not possible."""
    step = step_bytes(arm, plan, devices)
    if step is None or arm.evaluation is None:
        return None
    if devices == 1 or arm.shards is None:
        return max(step, arm.evaluation.total)
    of = arm.shards.scoring
    share = _micro_batches(arm, plan, devices)[0] / arm.micro_batches[0][0]
    scored = of.stored / devices + of.whole + of.head + 2 * max(of.layer, of.other) + share * arm.shards.scoring_data
    return max(step, math.ceil(scored))


def step_bytes(arm: ArmPlan, plan: StudyPlan, devices: int) -> int | None:
    """Peak of one of several devices in an optimizer step; None: not known, or not possible.

    Each has its share of the rows of a step, in micro-batches of at most the planned size.
    """
    if arm.step is None:
        return None
    if devices == 1:
        return arm.step.total
    if arm.shards is None:
        return None
    rows, num_batches = _micro_batches(arm, plan, devices)
    data = rows / arm.micro_batches[0][0] * arm.shards.step_data
    step = _step(arm.shards.training, devices, data, is_first=num_batches == 1)
    return math.ceil(step + arm.step.optimizer / devices)


def _step(of: Gathered, devices: int, data: float, *, is_first: bool) -> float:
    """Bytes at the peak of a step, without the optimizer's.

    The backward pass begins with all activations, and with gradients only if earlier micro-batches left them; at its
    end it is the other way round. A layer is whole beside the next one, or its gradient is in two copies beside it.
    """
    window = max(2 * of.layer, of.layer + 2 * of.layer_gradient)
    begin = data + window + (0 if is_first else of.trained / devices)
    end = of.trained / devices + max(window, of.other + 2 * of.other_gradient)
    return of.stored / devices + of.whole + of.head + of.head_gradient + max(begin, end)


def _micro_batches(arm: ArmPlan, plan: StudyPlan, devices: int) -> tuple[int, int]:
    """Rows of a device's largest micro-batch, and how many it has in a step."""
    rows = math.ceil(plan.work.batch_size / devices)
    most = min(rows, arm.micro_batches[0][0])
    return most, math.ceil(rows / most)


def bytes_moved(arm: ArmPlan, plan: StudyPlan, devices: int) -> int | None:
    """Bytes that each device receives in an optimizer step; None: not known.

    Each micro-batch gathers the weights for its forward and for its backward pass, and adds up the gradients.
    """
    if arm.shards is None:
        return None
    _, num_batches = _micro_batches(arm, plan, devices)
    of_batch = 2 * arm.shards.training.all + arm.shards.training.trained
    return round(num_batches * of_batch * (devices - 1) / devices)


def fewest_devices(arm: ArmPlan, plan: StudyPlan) -> int | None:
    """The smallest number of devices, of `TRIED`, with which the arm fits; None: it does not, or it is not known.

    Every device loads the whole base before it keeps its part, so no number helps where loading does not fit.
    """
    if (arm.loading or 0) > plan.memory_bytes:
        return None
    for devices in TRIED:
        needed = bytes_of_device(arm, plan, devices)
        if needed is not None and needed <= plan.memory_bytes:
            return devices
    return None
