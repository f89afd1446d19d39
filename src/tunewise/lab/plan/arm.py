"""Plan of one arm: what is trained, what a step needs, and what fits."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from peft import PeftModel, get_peft_model_state_dict

from tunewise.lab.data.batching import Batch
from tunewise.lab.methods import describe
from tunewise.lab.models.load import LINEAR, inner_model
from tunewise.lab.plan import fake_step
from tunewise.lab.plan.kernels import REFUSALS, is_followed
from tunewise.lab.plan.memory import StepMeter, gathered
from tunewise.lab.plan.meta_model import give_storage, without_values
from tunewise.lab.plan.setting import Kernels, PlanContext, PlannedModel, begin_training, build
from tunewise.lab.plan.workload import Workload
from tunewise.lab.weights.quantized import stored_bytes
from tunewise.records.plan import ArmPlan, Checkpointed, Gathered, PeakMemory, Shards
from tunewise.spec import TASKS, Device, Precision, Quantization, whole_because
from tunewise.spec import Method as MethodSpec

TRIED_FIRST = 1_024  # examples


def plan_arm(
    setting: PlanContext,
    work: Workload,
    spec: MethodSpec,
    kernels: Kernels | None,
    memory_bytes: int,
    check: bool = True,
) -> ArmPlan:
    """Needs of the arm, and the largest micro-batch that fits in `memory_bytes`. Raises SpecError.

    `kernels`: those of a run (`try_kernels`); None: the model's own, and the plan is an estimate. `check`: compare a
    planned step with a real one of a small model.
    """
    subject = build(setting, spec).take_up(kernels or Kernels(None, 0))
    plan = ArmPlan(
        tuned=describe(subject.model, subject.method),
        micro_batches=tuple((len(of.batch.rows), of.batch.input_ids_BT.numel()) for of in work.candidates),
        is_packed=any(of.batch.packed_12BL is not None for of in work.candidates),
        step=None,
        evaluation=None,
        flops_per_token=None,
        scoring_flops_per_token=None,
        saved_bytes=saved_bytes(subject.model),
        frozen_linear_weights=0,
        frozen_linear_bytes=0,
        largest_micro_batch=None,
        is_checked=False,
    )
    try:
        memory = _Memory(
            memory_bytes,
            setting.device,
            spec.quantized,
            is_narrow=setting.is_narrow_for(spec),
            is_divided=not (whole_because(spec) or TASKS[setting.task].has_classes),
        )
        found = _followed(plan, subject, setting, work, memory)
        if found.step and found.step.total > memory_bytes and not setting.train.gradient_checkpointing:
            less = replace(setting, train=setting.train.replace(gradient_checkpointing=True))
            subject = build(less, spec).take_up(kernels or Kernels(None, 0))
            found = found.replace(checkpointed=_checkpointed(_followed(plan, subject, less, work, memory)))
        if not check or kernels is None or spec.quantized is not None:
            return found
        return found.replace(is_checked=is_followed(setting, spec, kernels))
    except REFUSALS as error:
        return plan.replace(note=f"the step of this model cannot be traced without running it: {error}"[:300])


def _checkpointed(plan: ArmPlan) -> Checkpointed:
    assert plan.step is not None, "it was followed"
    assert plan.flops_per_token is not None, "set together with the step"
    return Checkpointed(step=plan.step, flops_per_token=plan.flops_per_token)


class _Memory(NamedTuple):
    """Memory of the device, and how the frozen linear weights are stored in it."""

    capacity: int
    device: Device
    quantized: Quantization | None  # None: whole
    is_narrow: bool  # as in the checkpoint, in bf16
    is_divided: bool  # several devices can make a run together

    def gathered(self, model: torch.nn.Module, precision: Precision) -> Gathered | None:
        """Bytes of the weights on several devices; None: they cannot make a run together."""
        if not self.is_divided:
            return None
        return gathered(inner_model(model), is_autocast=precision == "bf16", is_narrow=self.is_narrow)

    def saved(self, weights: Sequence[torch.Tensor]) -> int:
        """Bytes that the storage saves of `weights`, of which the largest is unpacked to fp32 at any time."""
        if not weights or not (self.quantized or (self.is_narrow and weights[0].dtype == torch.float32)):
            return 0
        counts = [weight.numel() for weight in weights]
        stored = sum(stored_bytes(n, self.quantized) if self.quantized else 2 * n for n in counts)
        return int(sum(weight.nbytes for weight in weights) - stored - 4 * max(counts))

    def loading(self, model: torch.nn.Module, frozen: Sequence[torch.Tensor], saved: int) -> int:
        """Bytes on the device while the base is loaded, for a model that is stored as in training.

        A narrow base, and one that is quantized for another device, arrives tensor by tensor in its final form. Any
        other is whole in fp32 first: on a CPU beside all that is stored anew, elsewhere beside one stored tensor.
        """
        parameters = list(model.parameters())
        final = sum(parameter.nbytes for parameter in parameters) - saved
        if self.is_narrow or (self.quantized and self.device != "cpu"):
            return int(final + 4 * max(parameter.numel() for parameter in parameters))
        whole = 4 * sum(parameter.numel() for parameter in parameters)
        stored = [weight.nbytes for weight in frozen if weight.dtype != torch.float32]
        if self.quantized:
            stored = [stored_bytes(weight.numel(), self.quantized) for weight in frozen]
        return int(whole + (sum(stored) if self.device == "cpu" else max(stored, default=0)))


def _followed(plan: ArmPlan, subject: PlannedModel, setting: PlanContext, work: Workload, memory: _Memory) -> ArmPlan:
    vocabulary = setting.config.get_text_config().vocab_size
    with fake_step.no_storage(setting.device) as mode:
        give_storage(subject.model, without_values)
        evaluation, batch = StepMeter(vocabulary), fake_step.bare(work.candidates[0].batch, mode)
        is_exact = setting.scoring == "exact"
        if is_exact:
            scoring = memory.gathered(subject.model, "fp32")
            fake_step.meter_score(subject.model, batch, "fp32", evaluation)
            saved_in_scoring = memory.saved(_frozen_linear(subject.model))
        loop = begin_training(subject, setting)
        if not is_exact:
            scoring = memory.gathered(subject.model, setting.precision)
            fake_step.meter_score(subject.model, batch, setting.precision, evaluation)
            saved_in_scoring = memory.saved(_frozen_linear(subject.model))
        fake_step.begin(loop)

        def followed(batch: Batch, follows_others: bool) -> StepMeter:
            meter = StepMeter(vocabulary)
            fake_step.meter_step(subject.model, [fake_step.bare(batch, mode)], loop, meter, after_others=follows_others)
            return meter

        steps = [followed(*candidate) for candidate in work.candidates]

        def peak_bytes(num_examples: int) -> int:
            return followed(work.of_longest(num_examples), num_examples < setting.train.batch_size).peak_total

        frozen = _frozen_linear(subject.model)
        saved = memory.saved(frozen)
        training = memory.gathered(subject.model, setting.precision)
        loading = memory.loading(subject.model, frozen, saved)
        stays = fake_step.stays(subject.model, loop)
        num_examples = largest(peak_bytes, setting.train.batch_size, memory.capacity + saved, stays)
    return plan.replace(
        step=_less(PeakMemory(**max(steps, key=lambda step: step.peak_total).peak), saved),
        evaluation=_less(PeakMemory(**evaluation.peak), saved_in_scoring),
        loading=loading,
        mapped=0 if memory.quantized else _mapped(subject, setting, is_narrow=memory.is_narrow),
        shards=_shards(training, scoring, max(step.peak_data for step in steps), evaluation.peak_data),
        note="memory in 4 bits is derived from the same arm on the whole base" if memory.quantized else None,
        flops_per_token=round(sum(step.flops for step in steps) / sum(of.batch.num_tokens for of in work.candidates)),
        scoring_flops_per_token=round(evaluation.flops / work.candidates[0].batch.num_tokens),
        frozen_linear_weights=0 if memory.quantized else sum(weight.numel() for weight in frozen),
        frozen_linear_bytes=0 if memory.quantized else sum(weight.nbytes for weight in frozen),
        largest_micro_batch=num_examples * len(work.longest.input_ids) or None,
    )


def _shards(training: Gathered | None, scoring: Gathered | None, step_data: int, scoring_data: int) -> Shards | None:
    if training is None or scoring is None:
        return None
    return Shards(training=training, scoring=scoring, step_data=step_data, scoring_data=scoring_data)


def _mapped(subject: PlannedModel, setting: PlanContext, *, is_narrow: bool) -> int:
    """Bytes of frozen weights that a run on a CPU leaves in the checkpoint's file, which is mapped into its memory.

    Those that stay as they are stored: no type is changed, nothing is added to them, and transformers does not put
    them together from several tensors, as it does for experts.
    """
    if setting.device != "cpu":
        return 0
    if is_narrow:
        linear = _frozen_linear(subject.model, torch.nn.Linear)
        tied = inner_model(subject.model).get_input_embeddings().weight
        return sum(2 * weight.numel() for weight in linear if weight is not tied)
    if not setting.stored == setting.precision == "fp32":
        return 0
    changed = {subject.model.get_submodule(name).weight for name in subject.method.fp32_modules}
    frozen = [p for p in subject.model.parameters() if not p.requires_grad and p not in changed]
    return sum(parameter.nbytes for parameter in frozen if parameter.ndim < 3)


def _less(peak: PeakMemory, saved: int) -> PeakMemory:
    """The peak with weights that take `saved` bytes less."""
    return peak.replace(weights=peak.weights - saved)


def largest(peak_bytes: Callable[[int], int], most: int, memory_bytes: int, stays: int) -> int:
    """The largest n from 1 to `most` with `peak_bytes(n)` within the memory; 0 if there is none.

    Below `most`, at which memory holds nothing else, the peak grows with n. `stays`: bytes needed in any case. The next
    n to try is the intersection of the memory with the straight line through the nearest two known points, so that few
    are tried. The first is at most TRIED_FIRST, because a batch of a million examples is large even without storage.
    """
    if stays > memory_bytes:
        return 0
    fits, at_fits, too_many = 0, stays, min(most, TRIED_FIRST)
    while (at_too_many := peak_bytes(too_many)) <= memory_bytes:
        if too_many == most:
            return most
        fits, at_fits, too_many = too_many, at_too_many, min(most, 4 * too_many)
    while too_many - fits > 1:
        share = (memory_bytes - at_fits) / (at_too_many - at_fits)
        n = min(max(fits + int(share * (too_many - fits)), fits + 1), too_many - 1)
        found = peak_bytes(n)
        if found <= memory_bytes:
            fits, at_fits = n, found
        else:
            too_many, at_too_many = n, found
    return fits


def saved_bytes(model: torch.nn.Module) -> int:
    """Bytes of the weights that `method.save` writes; the files add a few kilobytes of names."""
    if isinstance(model, PeftModel):
        return sum(tensor.nbytes for tensor in get_peft_model_state_dict(model).values())
    return sum(parameter.nbytes for parameter in model.parameters())


def _frozen_linear(model: torch.nn.Module, kinds: Any = LINEAR) -> Sequence[torch.Tensor]:
    """Weights that a quantized base would store in fewer bits: all of frozen linear modules, except the head."""
    head = inner_model(model).get_output_embeddings()
    return [m.weight for m in model.modules() if isinstance(m, kinds) and m is not head and not m.weight.requires_grad]
