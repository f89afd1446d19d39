"""Prices of an hour that the user gave, and what a plan costs at them. There are no built-in prices."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunewise.desk.planning.estimates import epoch_seconds, least_epoch_seconds
from tunewise.desk.planning.gpus import Gpu, find_gpu
from tunewise.errors import SpecError
from tunewise.records.plan import ArmPlan, PlannedCosts, StudyPlan
from tunewise.spec import MachineSpec, Price
from tunewise.spec.mistakes import explain_all, misread_numbers
from tunewise.spec.reading import read_yaml
from tunewise.text.suggest import listed

EXAMPLE = "Write a price per hour for each card, such as H100-80GB: 2.5, and optionally currency: EUR."


def card_and_price(
    machine: MachineSpec, gpu: str | None, prices: Path | None
) -> tuple[tuple[str, Gpu] | None, Price | None]:
    """The card of this name and its price in the file; without a name None and the price of this machine.

    Raises SpecError if the card is unknown or has no price in the file, or if the file cannot be read.
    """
    if gpu is None:
        if prices:
            raise SpecError("--prices has the prices of cards. Name one with --gpu, or set machine.price_per_hour.")
        return None, machine.price
    card = find_gpu(gpu)
    if prices is None:
        return card, None
    known = read_prices(prices)
    if card[0] not in known:
        raise SpecError(
            f"{prices}: has no price for {card[0]}, only for {listed(known)}. Add a line: {card[0]}: PRICE."
        )
    return card, known[card[0]]


def read_prices(path: Path) -> dict[str, Price]:
    """Card -> its price, from a YAML file of cards with their price per hour and `currency`. Raises SpecError."""
    if not path.is_file():
        raise SpecError(f"no such price file: {path}. {EXAMPLE}")
    content = read_yaml(path)
    if not isinstance(content, dict):
        kind = "empty" if content is None else type(content).__name__
        raise SpecError(f"{path}: must be a mapping, but this is {kind}. {EXAMPLE}")
    found: dict[str, Price] = {}
    for name, value in content.items():
        if name == "currency":
            continue
        try:
            card, _ = find_gpu(str(name))
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from error
        if card in found:
            raise SpecError(f"{path}: {card} has two prices. Keep one.")
        found[card] = _price(path, str(name), value, content.get("currency"))
    if not found:
        raise SpecError(f"{path}: has no prices. {EXAMPLE}")
    return found


def _price(path: Path, name: str, per_hour: Any, currency: Any) -> Price:
    if lines := misread_numbers({name: per_hour}, {name: 1.0}, str(path)):
        raise SpecError("\n".join(lines))
    try:
        return Price.model_validate({"per_hour": per_hour, "currency": currency})
    except ValidationError as error:
        mistakes = [
            {**item, "loc": (name,) if item["loc"] == ("per_hour",) else item["loc"]} for item in error.errors()
        ]
        raise SpecError(explain_all(mistakes, str(path))) from error


def epoch_cost(arm: ArmPlan, plan: StudyPlan, price: Price, card: Gpu | None = None) -> float | None:
    """Cost of an epoch's optimizer steps on this machine, or its lower bound on a card; None: not known."""
    return price.cost(least_epoch_seconds(arm, plan, card) if card else epoch_seconds(arm, plan))


def with_costs(plan: StudyPlan, price: Price | None, card: Gpu | None = None) -> StudyPlan:
    """The plan with its costs at this price, on this machine or, as lower bounds, on a card."""
    if price is None:
        return plan
    epochs = {name: epoch_cost(arm, plan, price, card) for name, arm in plan.arms.items()}
    costs = PlannedCosts(
        price=price,
        epochs={name: cost for name, cost in epochs.items() if cost is not None},
        **{name: price.cost(seconds) for name, seconds in (dict(plan.seconds).items() if plan.seconds else ())},
    )
    return plan.replace(costs=costs)
