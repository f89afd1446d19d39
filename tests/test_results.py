"""docs/results.md: summaries equal their tables, and every table says when it was recorded and with which numerics."""

import re
from datetime import date
from pathlib import Path

import pytest

from tunewise.spec import NUMERICS

TEXT = (Path(__file__).parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.S | re.M))
CAPTION = re.compile(r"\*Recorded (.*)\.\*")
RECORDED = re.compile(r"(\d{4}-\d\d-\d\d), numerics (\d+)")
STUDIES = {
    "quickstart": "Quickstart: message to team, urgency and reply, the bundled base",
    "docstrings": "Docstrings: signature to docstring, the bundled base",
    "E2E": "E2E: meaning representation to sentence, the bundled base",
    "GSM8K": "GSM8K: worked answers, the bundled base",
    "conversations": "Conversations with the chat template of the bundled base",
}


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every Markdown table, without its header and the line below it."""
    found = re.findall(r"(?:^\|.*\n)+", text + "\n", re.M)
    return [[[cell.strip() for cell in line.strip("| ").split("|")] for line in of.splitlines()[2:]] for of in found]


def mean(cell: str) -> float:
    """3.67 of '3.67 (3.544 to 3.815)'."""
    return float(cell.split()[0])


def gain_kept(section: str, arm: str) -> str:
    """Share of full fine-tuning's gain in NLL that an arm keeps, from a section's first table; – without the arm."""
    losses = {row[0]: mean(row[2]) for row in tables(SECTIONS[section])[0]}
    if arm not in losses:
        return "–"
    return f"{100 * (losses['base'] - losses[arm]) / (losses['base'] - losses['full']):.0f}%"


def test_the_summary_is_what_its_tables_say() -> None:
    summary = tables(TEXT.partition("\n## ")[0])[0]
    assert [row[0] for row in summary] == list(STUDIES)
    for study, of_all, of_c_attn in summary:
        assert of_all == gain_kept(STUDIES[study], "lora-r16-all"), study
        assert of_c_attn == gain_kept(STUDIES[study], "lora-r8"), study


def test_the_shares_of_parameters_and_bytes_are_those_of_the_tables() -> None:
    shares = set()
    for title in STUDIES.values():
        rows = {row[0]: row for row in tables(SECTIONS[title])[0]}
        trained, saved = ({arm: int(rows[arm][at].split()[0].replace(",", "")) for arm in ("full", "lora-r16-all")}
                          for at in (5, 7))  # fmt: skip
        shares |= {round(100 * of["lora-r16-all"] / of["full"]) for of in (trained, saved)}
    assert shares == {6}
    assert "trains 6% as many parameters as full fine-tuning and needs 6% of its bytes" in TEXT


def test_the_short_searchs_share_of_the_time_and_its_regret_are_those_of_its_table() -> None:
    section = SECTIONS["What the short search saves"]
    (rows,) = tables(section)
    shares = [int(row[-1].rstrip("%")) for row in rows]
    assert f"all {len(rows)} times, in {min(shares)} to {max(shares)}% of the time" in section
    assert all(row[3] == row[5] and float(row[6]) == 0 for row in rows)


def test_truncated_and_direct_adapters_differ_by_what_the_text_says() -> None:
    section = SECTIONS["Which rank: E2E with the bundled base"]
    rows = {int(row[0].split()[0]): row for row in tables(section)[0]}
    apart = {rank: mean(row[2]) - mean(row[5]) for rank, row in rows.items() if row[5] != "–"}
    assert f"agree within {max(abs(apart[16]), abs(apart[32])):.3f} nats" in section
    assert f"worse by {apart[4]:.2f} nats at rank 4 and by {apart[1]:.2f} nats at rank 1" in " ".join(section.split())
    assert f"rank 16 is worse by {mean(rows[16][5]) - mean(rows[32][5]):.3f} nats" in section


def test_every_verdict_states_the_difference_that_its_table_shows() -> None:
    found = 0
    for title, section in SECTIONS.items():
        rows = {row[0]: row for row in tables(section)[0]} if "| arm |" in section else {}
        text = " ".join(section.split())
        for arm, points in re.findall(
            r"\*\*([\w-]+): [\w ]+\.\*\* It is worse than full fine-tuning by ([\d.]+) nats", text
        ):
            assert mean(rows[arm][2]) - mean(rows["full"][2]) == pytest.approx(float(points), abs=0.0011), title
            found += 1
        for arm, points, side in re.findall(r"\*\*([\w-]+): \w+\.\*\* Its accuracy is ([\d.]+) points (\w+)", text):
            # within 0.2: the verdict on the head of TREC is of 5 seeds, the table of 10
            difference = 100 * (mean(rows[arm][2]) - mean(rows["full"][2]))
            assert difference == pytest.approx(float(points) * {"above": 1, "below": -1}[side], abs=0.2), title
            found += 1
    assert found == 14


@pytest.mark.parametrize("title", SECTIONS)
def test_every_table_has_a_caption_with_its_date_and_numerics(title: str) -> None:
    lines = SECTIONS[title].splitlines()
    for at, line in enumerate(lines):
        if line.startswith("| ---"):
            caption = CAPTION.fullmatch(lines[at - 3])
            assert caption, f"no caption above the table: {lines[at - 1]}"
            recorded = RECORDED.findall(caption[1])
            assert recorded, caption[0]
            for day, numerics in recorded:
                assert date.fromisoformat(day) >= date(2026, 11, 23)
                assert 1 <= int(numerics) <= NUMERICS


def test_the_page_names_todays_numerics() -> None:
    assert f"(`NUMERICS`, now {NUMERICS})" in TEXT
