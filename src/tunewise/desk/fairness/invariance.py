"""Rules about arms that are the same training under two names: LoRA's scale, start and rate are redundant.

With Adam the training of W + s B A, A begun p times as large and B at 0, at rate p r, is that of W + s p^2 B A, A begun
as always, at rate r: put A = p A', B = p B' (Schulman et al. 2025, "LoRA Without Regret", for one rate of A and B). It
holds while the gradient is not clipped, the decay is rescaled by 1 / p or 0, epsilon is negligible and a head has a
group of its own.
"""

import math
from collections import defaultdict
from collections.abc import Iterator

from tunewise.desk.fairness.case import Case
from tunewise.desk.fairness.finding import Finding, listed
from tunewise.spec import LoraMethod

ALIKE = 1e-9  # relative: equal up to rounding
Group = list[tuple[str, LoraMethod]]


def same_training(case: Case) -> Iterator[Finding]:
    """Arms whose training is the same up to rounding, with rates in a fixed ratio."""
    for arms in _groups(case):
        for found in _of_equal_start(arms):
            if len(found) < 2:
                continue
            ratios = [method.init_scale / found[0][1].init_scale for _, method in found]
            names = [name for name, _ in found]
            yield Finding(
                id="same-training",
                severity="warns",
                sentence=f"{listed(names)} are the same training under {len(names)} names. Keep one of them.",
                evidence=f"{_told(found)}; {_condition(case, ratios)}",
            )


def start_alone(case: Case) -> Iterator[Finding]:
    """Arms that differ only in alpha or init_scale: the search for the rate compensates for most of it."""
    for arms in _groups(case):
        found = [group[0] for group in _of_equal_start(arms)]
        if len(found) < 2:
            continue
        first = _start(found[0][1])
        ratios = (f"{name} {math.sqrt(_start(method) / first):.3g}" for name, method in found[1:])
        yield Finding(
            id="start-alone",
            severity="note",
            sentence=f"{listed([name for name, _ in found])} differ only in scale. Their learning-rate searches "
            "compensate for it, so the comparison is about the initial size of A.",
            evidence=f"{_told(found)}; initial size of A relative to {found[0][0]}: {', '.join(ratios)}",
        )


def _groups(case: Case) -> list[Group]:
    """LoRA arms that are equal except for alpha, init_scale, the scale rule, and where their rate is searched."""
    groups: defaultdict[tuple[object, ...], Group] = defaultdict(list)
    for name, method in case.study.lora_arms.items():
        # pissa and olora start as a part of the weight; dora's magnitudes train at the same rate whatever the scale
        if method.variant in ("plain", "rslora"):
            groups[method.rank, method.top_rank, method.targets, method.dropout, method.base].append((name, method))
    return [group for group in groups.values() if len(group) > 1]


def _start(method: LoraMethod) -> float:
    """The joint effect of alpha, the scale rule and init_scale once the rate is searched."""
    return method.scale * method.init_scale**2


def _of_equal_start(arms: Group) -> list[Group]:
    found: list[Group] = []
    for name, method in arms:
        for group in found:
            if math.isclose(_start(method), _start(group[0][1]), rel_tol=ALIKE):
                group.append((name, method))
                break
        else:
            found.append([(name, method)])
    return found


def _told(arms: Group) -> str:
    return ", ".join(f"{name}: scale {method.scale:.4g}, init_scale {method.init_scale:g}" for name, method in arms)


def _condition(case: Case, ratios: list[float]) -> str:
    """The conditions under which the arms are equal, and whether they hold here."""
    if all(math.isclose(ratio, 1.0, rel_tol=ALIKE) for ratio in ratios):
        return "identical at equal learning rates"
    train = case.study.train
    decay = "0" if not train.weight_decay else f"{train.weight_decay:g} in every arm, so not divided"
    head = ", with the head in a parameter group of its own (it is)" if case.data.num_new_parameters else ""
    return (
        f"identical at rates in the ratio {' : '.join(f'{ratio:.3g}' for ratio in ratios)}, if no gradient is clipped "
        f"(here at norm {train.clip_norm:g}), weight decay is 0 or divided by these ratios (here {decay}), and epsilon "
        f"is negligible (here {train.epsilon:g}){head}"
    )
