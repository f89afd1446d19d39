"""Settings with which an arm fits that does not as asked, the cheapest first."""

from collections.abc import Iterator

from tunewise.desk.planning.devices import fewest_devices
from tunewise.desk.planning.estimates import fit, quantized
from tunewise.records.plan import ArmPlan, StudyPlan
from tunewise.text.numbers import duration, size


def what_fits(plan: StudyPlan) -> Iterator[str]:
    """A sentence for every arm that does not fit in the plan's memory."""
    room = size(plan.memory_bytes)
    for name, arm in plan.arms.items():
        if arm.step is None or fit(arm, plan.memory_bytes) != "does not fit":
            continue
        ways = list(_ways(arm, plan.memory_bytes))
        if (devices := fewest_devices(arm, plan)) and devices > 1:
            ways.append(f"machine.devices_per_run: {devices} (see --devices)")
        if ways:
            yield f"{name} does not fit in {room}. It does with {'; or with '.join(ways)}."
        else:
            yield f"{name} does not fit in {room}, not even {_tried(arm)}. It needs a device with more memory."


def _ways(arm: ArmPlan, memory_bytes: int) -> Iterator[str]:
    """Each setting that suffices alone, with its time."""
    assert arm.step is not None, "asked for arms whose step was followed"
    fits_otherwise = fit(arm.replace(step=arm.step.replace(activations=0, logits=0)), memory_bytes) != "does not fit"
    if fits_otherwise and arm.largest_micro_batch is not None:
        yield f"train.micro_batch_tokens: {arm.largest_micro_batch}{_time(arm, 1.0)}"
    if arm.checkpointed and fit(arm.replace(step=arm.checkpointed.step), memory_bytes) != "does not fit":
        ratio = arm.checkpointed.flops_per_token / (arm.flops_per_token or 1)
        yield f"train.gradient_checkpointing: true{_time(arm, ratio)}"
    packed = quantized(arm)
    if packed and fit(_on_four_bits(arm).replace(step=packed), memory_bytes) != "does not fit":
        yield "base: nf4 (plan it as an arm for its time)"


def _on_four_bits(arm: ArmPlan) -> ArmPlan:
    """The arm without loading and scoring, which need less than a step if the linear weights are in 4 bits."""
    return arm.replace(loading=None, evaluation=None)


def _time(arm: ArmPlan, ratio: float) -> str:
    """Time of a step, or its ratio to that of the asked step, by FLOPs."""
    if arm.speed:
        return f" ({duration(ratio * arm.speed.step_seconds)} per step)"
    return " (in the same time)" if ratio == 1 else f" (about {ratio:.2f} times the time)"


def _tried(arm: ArmPlan) -> str:
    """What was tried, and what it needs."""
    found = []
    if arm.checkpointed:
        found.append(f"with gradient checkpointing ({size(arm.checkpointed.step.total)} at its peak)")
    if packed := quantized(arm):
        found.append(f"on a base in 4 bits ({size(packed.total)})")
    return " or ".join(found) or "with smaller micro-batches"
