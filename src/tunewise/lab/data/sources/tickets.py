"""Support tickets written for tunewise: a customer's message, and its team, urgency and reply.

The rows are generated, the same in every process. The bundled base learns the task from 800 of them, so that a reader
sees answers become right. The team follows from the problem, the urgency from the wish; the reply names the product.
"""

import hashlib
from collections.abc import Iterator
from itertools import product
from typing import Any

PRODUCTS = (
    *("lamp", "chair", "kettle", "radio", "clock", "table", "coat", "bicycle", "camera", "printer"),
    *("blanket", "mirror", "guitar", "basket", "ladder", "tent"),
)
OPENINGS = ("Hello,", "Good morning,", "Dear team,", "Hi there,")
PROBLEMS = {  # what happened to the product -> the team that answers, and what it does
    "the {} you sent me is broken": ("repairs", "We will repair your {}"),
    "my {} stopped working after two days": ("repairs", "We will repair your {}"),
    "one part of the {} is missing": ("repairs", "We will repair your {}"),
    "the {} has not arrived": ("delivery", "We will look for your {}"),
    "I am still waiting for the {}": ("delivery", "We will look for your {}"),
    "the {} went to the wrong address": ("delivery", "We will look for your {}"),
    "I paid twice for the {}": ("billing", "We will return the money for your {}"),
    "the price of the {} on my bill is wrong": ("billing", "We will return the money for your {}"),
    "I sent the {} back but got no money": ("billing", "We will return the money for your {}"),
}
WISHES = {  # how the message ends -> urgency
    "I need it today.": "high",
    "Please hurry, it is a birthday present.": "high",
    "This is the third time I write to you.": "high",
    "There is no hurry.": "low",
    "Please answer when you have time.": "low",
    "Next month is early enough.": "low",
}


def tickets() -> Iterator[dict[str, Any]]:
    """Rows {"prompt": message, "completion": team, urgency and reply}, each message once, in a fixed order."""
    rows = []
    for opening, (problem, (team, reply)), item, (wish, urgency) in product(
        OPENINGS, PROBLEMS.items(), PRODUCTS, WISHES.items()
    ):
        prompt = f"{opening} {problem.format(item)}. {wish}"
        completion = f"Team: {team}. Urgency: {urgency}. Reply: {reply.format(item)}."
        rows.append({"prompt": prompt, "completion": completion})
    return iter(sorted(rows, key=lambda row: hashlib.sha256(row["prompt"].encode()).digest()))
