"""What an arm trains, in figures."""

from tunewise.spec.frozen import Frozen


class Tuned(Frozen):
    """What learned."""

    trainable_parameters: int
    total_parameters: int
    scale: float | None  # effective LoRA scale; None: not LoRA
    num_target_modules: int | None  # None: no target modules
    linear_share: float | None  # share of the weights of the base's body inside the targets
    rank_parameters: int | None = None  # what one more rank in every target adds; None: not LoRA
    parameter_groups: tuple[str, ...]  # one line each: names, count, rate, decay
    learned_dtypes: tuple[str, ...] = ()  # in which the weights that learn are stored: 'float32'
