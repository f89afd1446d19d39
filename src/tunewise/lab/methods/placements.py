"""Parameters per rank of each placement of LoRA, counted on the model itself."""

from tunewise.errors import SpecError
from tunewise.lab.methods.targets import linear_modules, resolve_targets
from tunewise.lab.models.load import Base
from tunewise.spec import StudySpec
from tunewise.spec.expand import PLACEMENTS, Costs, expand


def placement_costs(base: Base) -> Costs:
    """Parameters of one rank, inputs plus outputs of every module and expert, by placement.

    Placements without modules in this model, or with those of another placement, are left out. Raises SpecError if
    fewer than two remain.
    """
    linear = set(linear_modules(base))
    costs: dict[str, int] = {}
    seen: list[tuple[str, ...]] = []
    for placement in PLACEMENTS:
        try:
            names = resolve_targets(base, placement, with_experts=True).names
        except SpecError:
            continue
        if names not in seen:
            seen.append(names)
            costs[placement] = sum(_cost(base, name) for name in names)
    if len(costs) < 2:
        raise SpecError(
            f"targets: auto compares the placements {', '.join(PLACEMENTS)}, but this model has only "
            f"{', '.join(costs) or 'none'}. Set the targets; its modules include {', '.join(sorted(linear)[:4])}."
        )
    return costs


def _cost(base: Base, name: str) -> int:
    """Parameters of one rank; every expert has its own factors."""
    weight = base.model.get_parameter(f"{name}.weight" if name in linear_modules(base) else name)
    return (len(weight) if weight.ndim == 3 else 1) * int(sum(weight.shape[-2:]))


def expand_placements(study: StudySpec, base: Base) -> StudySpec:
    """The study with one arm per placement for every arm with `targets: auto`. Raises SpecError."""
    names = [name for name, method in study.arms.items() if method.has_open_targets]
    return expand(study, dict.fromkeys(names, placement_costs(base))) if names else study
