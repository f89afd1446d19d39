"""Rules about arms that are one training under two names: LoRA's scale, start and rate are three words for two things.

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

ALIKE = 1e-9  # relative: equal but for rounding
Group = list[tuple[str, LoraMethod]]


def same_training(case: Case) -> Iterator[Finding]:
    """Arms that are the same training but for rounding, their rates in a fixed ratio: one of them is enough."""
    for arms in _groups(case):
        for found in _of_equal_start(arms):
            if len(found) < 2:
                continue
            ratios = [method.init_scale / found[0][1].init_scale for _, method in found]
            names = [name for name, _ in found]
            yield Finding(
                id="same-training",
                severity="warns",
                sentence=f"{listed(names)} are one training under {len(names)} names: one of them is enough.",
                evidence=f"{_told(found)}; {_condition(case, ratios)}",
            )


def start_alone(case: Case) -> Iterator[Finding]:
    """Arms that differ in alpha or init_scale alone: a searched rate takes the rest of it up."""
    for arms in _groups(case):
        found = [group[0] for group in _of_equal_start(arms)]
        if len(found) < 2:
            continue
        first = _start(found[0][1])
        ratios = (f"{name} {math.sqrt(_start(method) / first):.3g}" for name, method in found[1:])
        yield Finding(
            id="start-alone",
            severity="note",
            sentence=f"{listed([name for name, _ in found])} differ in their scale alone. Each rate is searched, "
            "and takes that up: what is compared is how large A begins.",
            evidence=f"{_told(found)}; A as if begun so many times as large as in {found[0][0]}: {', '.join(ratios)}",
        )


def _groups(case: Case) -> list[Group]:
    """LoRA arms that are equal but for alpha, init_scale, the rule of the scale, and where their rate is searched."""
    groups: defaultdict[tuple[object, ...], Group] = defaultdict(list)
    for name, method in case.study.lora_arms.items():
        # pissa and olora begin as a part of the weight; dora's magnitudes learn at the same rate, whatever the scale
        if method.variant in ("plain", "rslora"):
            groups[method.rank, method.top_rank, method.targets, method.dropout].append((name, method))
    return [group for group in groups.values() if len(group) > 1]


def _start(method: LoraMethod) -> float:
    """What alpha, the rule of the scale and init_scale together come to, once the rate is searched."""
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
    """Under what the arms are equal, and whether it is so here."""
    if all(math.isclose(ratio, 1.0, rel_tol=ALIKE) for ratio in ratios):
        return "equal at equal rates"
    train = case.study.train
    decay = "0" if not train.weight_decay else f"{train.weight_decay:g} in all of them, to be divided by these"
    head = ", the head in a group of its own (it is)" if case.data.num_new_parameters else ""
    return (
        f"equal at rates in the ratio {' : '.join(f'{ratio:.3g}' for ratio in ratios)} while nothing is clipped (here "
        f"at norm {train.clip_norm:g}), with the weight decay 0 or divided by these (here {decay}), epsilon negligible "
        f"(here {train.epsilon:g}){head}"
    )
