"""Costs are the user's price times the time that is shown, and there is no price but the user's."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from planned_study import SPEED, arm_plan, study_plan
from rich.console import Console

from tunewise.desk.planning import estimates
from tunewise.desk.planning.gpus import find_gpu
from tunewise.desk.planning.prices import card_and_price, with_costs
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.pages.html import to_html
from tunewise.desk.report.terminal.check import expected
from tunewise.desk.report.terminal.plan import print_plan
from tunewise.desk.report.terminal.text import print_report
from tunewise.desk.report.views.view import Report
from tunewise.errors import SpecError
from tunewise.records.plan import StudyPlan, StudySeconds, plan_key
from tunewise.spec import MachineSpec, Price, StudySpec
from tunewise.storage.ledger import Ledger
from tunewise.text.numbers import money

PRICED = {"machine": {"device": "cpu", "precision": "fp32", "threads": 2, "price_per_hour": 7.2, "currency": "EUR"}}
EUROS = Price(per_hour=7.2, currency="EUR")  # 0.002 EUR per second


def study(**machine: object) -> StudySpec:
    content = {"name": "n", "data": {"train": "a"}, "arms": {"lora": {"method": "lora"}}, "machine": machine}
    return StudySpec.model_validate(content)


def printed(plan: StudyPlan, card: str | None = None, asked: StudySpec | None = None) -> str:
    text = StringIO()
    print_plan(asked or study(), plan, find_gpu(card) if card else None, Console(file=text, width=160))
    return text.getvalue()


def in_terminal(report: Report) -> str:
    text = StringIO()
    print_report(report, Console(file=text, width=400), Path("runs/x"))
    return text.getvalue()


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        (1234.5, "EUR", "1,234.50 EUR"),
        (0.124, "$", "0.12 $"),
        (0.00421, "EUR", "0.0042 EUR"),
        (2, None, "2.00"),
        (0, "EUR", "0.00 EUR"),
        (None, "EUR", "–"),
    ],
)
def test_money_has_two_digits_at_least_and_no_invented_currency(
    amount: float | None, currency: str | None, shown: str
) -> None:
    assert money(amount, currency) == shown


# --- the report


def test_a_report_has_the_cost_of_a_training_of_each_arm_and_of_all_runs(make_study: Callable[..., Ledger]) -> None:
    report = build_report(make_study(study=PRICED))
    seconds = report.arm("full").train_seconds
    assert seconds
    assert report.arm("full").train_cost == pytest.approx(0.002 * seconds)
    assert report.arm("base").train_cost is None
    assert report.study.run_cost == pytest.approx(0.002 * report.study.run_seconds)
    line = next(line for line in in_terminal(report).splitlines() if line.startswith("cost at"))
    for shown in ("7.20 EUR per hour", f"full {money(0.002 * seconds, 'EUR')}", money(report.study.run_cost, "EUR")):
        assert shown in line
        assert shown.removeprefix("full ") in to_html(report, ())


def test_without_a_price_a_report_shows_no_cost(make_study: Callable[..., Ledger]) -> None:
    report = build_report(make_study())
    assert (report.study.price, report.study.run_cost, report.arm("full").train_cost) == (None, None, None)
    assert "per hour" not in in_terminal(report) + to_html(report, ())


def test_a_price_changes_no_run_and_no_stored_plan(make_study: Callable[..., Ledger]) -> None:
    plain, priced = make_study().study(), make_study(study=PRICED).study()
    assert plan_key(plain) == plan_key(priced)
    runs = {record.run_id for record in make_study().records()}
    assert {record.run_id for record in make_study(study=PRICED).records()} == runs


# --- the plan


def test_a_plan_shows_the_cost_of_every_time_it_shows() -> None:
    seconds = StudySeconds(least=1000.0, most=2000.0, second_look=500.0)
    plan = study_plan(lora=arm_plan(speed=SPEED)).replace(seconds=seconds)
    found = with_costs(plan, EUROS)
    assert found.costs is not None
    assert (found.costs.least, found.costs.most, found.costs.second_look) == pytest.approx((2.0, 4.0, 1.0))
    epoch = estimates.epoch_seconds(plan.arms["lora"], plan)
    assert epoch
    assert found.costs.epochs == pytest.approx({"lora": 0.002 * epoch})
    text = printed(found)
    assert "2.00 EUR, or 4.00 EUR if every search reaches its cap; later looks add up to 1.00 EUR." in text
    assert "7.20 EUR per hour" in text
    assert money(0.002 * epoch, "EUR") in text.split("cost of an epoch")[1].splitlines()[0]
    assert "EUR" not in printed(plan)


def test_check_shows_the_cost_of_the_study(make_study: Callable[..., Ledger]) -> None:
    ledger = make_study(study=PRICED)
    asked = ledger.study()
    splits = ledger.data_summary().splits
    plan = study_plan({"splits": splits}, **{name: arm_plan(speed=SPEED) for name in asked.arms})
    *_, whole = expected(asked, plan)
    found = estimates.study_seconds(asked, plan)
    assert found
    assert f"({money(0.002 * found.least, 'EUR')}" in whole


def test_on_a_card_the_cost_is_a_lower_bound_at_the_price_of_the_card() -> None:
    name, card = find_gpu("L4")
    plan = study_plan()
    least = estimates.least_epoch_seconds(plan.arms["lora"], plan, card)
    assert least
    text = printed(with_costs(plan, EUROS, card), name)
    assert money(0.002 * least, "EUR") in text.split("cost of an epoch, at least")[1].splitlines()[0]
    assert "--prices" in printed(plan, name, study(price_per_hour=9.0)), "a machine's price is not that of the card"


# --- the user's own price file


def prices(folder: Path, text: str) -> Path:
    path = folder / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_price_file_has_one_currency_and_a_price_for_each_card(tmp_path: Path) -> None:
    path = prices(tmp_path, "currency: USD\nnvidia l4: 0.7\nRTX-4090: 1\n")
    machine = MachineSpec(price_per_hour=100.0)
    for gpu, per_hour in (("L4", 0.7), ("rtx4090", 1.0)):
        card, price = card_and_price(machine, gpu, path)
        assert card == find_gpu(gpu)
        assert price == Price(per_hour=per_hour, currency="USD")
    assert card_and_price(machine, "L4", None) == (find_gpu("L4"), None)
    assert card_and_price(machine, None, None) == (None, machine.price)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("L5: 0.7\n", "unknown GPU 'L5'.*Known"),
        ("L4: 0.7\nnvidia-L4: 0.8\n", "L4 has two prices"),
        ("RTX-4090: 1\n", "no price for L4, only for RTX-4090"),
        ("currency: EUR\n", "no prices.*Write"),
    ],
)
def test_a_price_file_names_each_known_card_once(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        card_and_price(MachineSpec(), "L4", prices(tmp_path, text))
