"""What one rank costs in each placement of LoRA, found on the model itself."""

from tunewise.errors import SpecError
from tunewise.lab.methods.targets import linear_modules, resolve_targets
from tunewise.lab.models.load import Base
from tunewise.spec import StudySpec
from tunewise.spec.expand import PLACEMENTS, Costs, expand


def placement_costs(base: Base) -> Costs:
    """Parameters of one rank, inputs plus outputs of every module, by placement.

    Placements that match nothing in this model, or the modules of another, are left out. Raises SpecError where fewer
    than two are left.
    """
    linear = set(linear_modules(base))
    costs: dict[str, int] = {}
    seen: list[tuple[str, ...]] = []
    for placement in PLACEMENTS:
        try:
            names = resolve_targets(base, placement).names
        except SpecError:
            continue
        if names not in seen:
            seen.append(names)
            costs[placement] = sum(sum(base.model.get_parameter(f"{name}.weight").shape) for name in names)
    if len(costs) < 2:
        raise SpecError(
            f"targets: auto compares placements, but of {', '.join(PLACEMENTS)} this model has "
            f"{', '.join(costs) or 'none'} alone. Name the targets: modules of it are {', '.join(sorted(linear)[:4])}."
        )
    return costs


def expand_placements(study: StudySpec, base: Base) -> StudySpec:
    """The study with an arm for every placement where it has one with `targets: auto`. Raises SpecError."""
    names = [name for name, method in study.arms.items() if method.has_open_targets]
    return expand(study, dict.fromkeys(names, placement_costs(base))) if names else study
