"""Summary of what an arm trains."""

from tunewise.spec.frozen import Frozen


class TrainableSummary(Frozen):
    """Parameter counts, target modules and dtypes of what an arm trains."""

    trainable_parameters: int
    total_parameters: int
    scale: float | None  # effective LoRA scale; None: not LoRA
    num_target_modules: int | None  # None: no target modules
    num_expert_tensors: int = 0  # of these, tensors with the weights of several experts; 0 in records from before
    linear_share: float | None  # share of the base body's weights inside the targets
    rank_parameters: int | None = None  # parameters added by one more rank in every target; None: not LoRA
    parameter_groups: tuple[str, ...]  # one line each: names, count, rate, decay
    learned_dtypes: tuple[str, ...] = ()  # storage dtypes of the trained weights, such as 'float32'
