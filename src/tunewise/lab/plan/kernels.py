"""Check that a plan does what a run does.

The kernels that a run would choose, and the operations of a real step, are tried on a small model of the same
architecture.
"""

from collections.abc import Sequence
from contextlib import nullcontext

from tunewise.errors import SpecError
from tunewise.lab.data.batching import Batch
from tunewise.lab.models.attention import NAMES
from tunewise.lab.models.fusing import fuse
from tunewise.lab.models.load import inner_model
from tunewise.lab.models.packing import REFUSALS as REFUSED_TO_RUN
from tunewise.lab.models.packing import fit_attention
from tunewise.lab.plan import fake_step
from tunewise.lab.plan.meta_model import give_storage, with_small_values, without_values
from tunewise.lab.plan.operators import Operators
from tunewise.lab.plan.setting import Kernels, PlanContext, begin_training, build
from tunewise.lab.plan.workload import assumed_examples
from tunewise.lab.private import attention_of
from tunewise.spec import Method as MethodSpec

# Errors of a model that cannot be built without weights, or traced: it looks at values, or at fixed sizes.
REFUSALS = (*REFUSED_TO_RUN, AssertionError)


def try_kernels(setting: PlanContext, spec: MethodSpec) -> Kernels | None:
    """Kernels that a run would give this arm, chosen as in a run, on a small model of the same architecture.

    None: no small model can be built, or it cannot be run.
    """
    try:
        subject = build(setting.small, spec)
        fuse(subject.model)
        give_storage(subject.model, with_small_values)
        max_packed_length = fit_attention(subject.model, setting.attention, setting.task)
    except (SpecError, *REFUSALS):
        return None
    name = attention_of(inner_model(subject.model).config)
    # on a GPU the fused kernel is always the faster one; the plan's tensors are on a fake CPU
    is_fused = setting.device != "cpu" and name == NAMES["fastest"]
    return Kernels(NAMES["sdpa"] if is_fused else name, max_packed_length)


def is_followed(setting: PlanContext, spec: MethodSpec, kernels: Kernels) -> bool:
    """True if a real step of a small model of this architecture does the same operations as its planned step."""
    # padded: a micro-batch with padding and one without, for which models take different paths
    examples = [example for length in (8, 5, 4) for example in assumed_examples(setting.task, 1, length)]
    train = setting.train.replace(batch_size=3, micro_batch_tokens=16)
    batches = list(kernels.batching(train).batches(examples, range(3)))
    try:
        real, planned = (operators(setting.small, spec, kernels, batches, is_real=real) for real in (True, False))
    except (SpecError, *REFUSALS):  # this architecture cannot be made small, or the arm does not fit a small one
        return False
    return real == planned


def operators(
    setting: PlanContext, spec: MethodSpec, kernels: Kernels, micro_batches: Sequence[Batch], *, is_real: bool
) -> list[str]:
    """Operations of one step of a run, executed or traced."""
    subject, seen = build(setting, spec).take_up(kernels), Operators()
    with nullcontext() if is_real else fake_step.no_storage("cpu") as mode:
        give_storage(subject.model, with_small_values if is_real else without_values)
        loop = begin_training(subject, setting)
        fake_step.begin(loop)
        batches = [batch if mode is None else fake_step.bare(batch, mode) for batch in micro_batches]
        with seen:
            fake_step.step(subject.model, batches, loop)
    return seen.seen
