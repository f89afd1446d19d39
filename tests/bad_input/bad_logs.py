"""Logs of runs that are not judged."""

import json
from typing import Any

from bad_input_case import Case, command, lines, taken

JUDGE = "judge --full f.jsonl --arm lora=l.jsonl"
SAMPLES = "samples_arc_2026-11-30T10-00-00.000001.jsonl"
RESULTS = "results_2026-11-30T10-00-00.000001.json"
GOOD = [{"id": f"q{place}", "score": place % 2} for place in range(40)]


def table(what: str, full: bytes, lora: bytes, *words: str, more: str = "") -> Case:
    """Two tables that are refused."""
    return command(what, f"{JUDGE} {more}".strip(), *words, f__jsonl=full, l__jsonl=lora)


def sample(**changes: Any) -> dict[str, Any]:
    """A line of lm-evaluation-harness."""
    return {"doc_id": 0, "doc": {}, "prompt_hash": "h", "metrics": ["acc"], "acc": 1.0, **changes}


def harness(what: str, full: list[Any], lora: list[Any], *words: str, of_full: Any = None, of_lora: Any = None) -> Case:
    """Two folders of lm-evaluation-harness that are refused, with their results files if given."""
    files = {f"f/{SAMPLES}": lines(*full), f"l/{SAMPLES}": lines(*lora)}
    results = {"f": of_full, "l": of_lora}
    files |= {f"{arm}/{RESULTS}": json.dumps(of).encode() for arm, of in results.items() if of}
    return Case(what, ("judge", "--full", "f", "--arm", "lora=l"), words, files)


def with_args(args: dict[str, str]) -> dict[str, Any]:
    return {"config": {"model_args": {"pretrained": "base", **args}}, "model_name": "base"}


LOGS = [
    taken(table("one item", lines(GOOD[0]), lines(GOOD[0]), "inconclusive", "at least 10 independent test rows")),
    command("no logs", "judge", "nothing to judge", "--full DIR --arm lora=DIR"),
    command("logs of full alone", "judge --full f.jsonl", "nothing to judge", f__jsonl=lines(*GOOD)),
    command("an arm without a log", "judge --full f.jsonl --arm lora", "--arm needs NAME=PATH", "'lora'"),
    command("an arm that is named full", "judge --full f --arm full=l", "'full' is not the name of an arm"),
    command(
        "models without test rows", "judge --model tiny --full f --arm lora=l", "give at least --model BASE and --data"
    ),
    command(
        "a tuned model that is not there",
        "judge --model tiny --data t.jsonl --full f --arm lora=l",
        "no such folder: f",
        t__jsonl=lines(*GOOD),
    ),
    command("a log that is not there", JUDGE, "no such file or folder: f.jsonl", "--output_path"),
    command(
        "a folder without logs", "judge --full f --arm lora=f", "f holds no logs", "notes.md", **{"f/notes__md": b"x"}
    ),
    command("logs in an archive", "judge --full f --arm lora=f", "archives (a.zip)", "Unpack", **{"f/a__zip": b"PK"}),
    command("an archive as a log", "judge --full a.tar.gz --arm lora=a.tar.gz", "is an archive", a__tar__gz=b"x"),
    command(
        "a log of Inspect",
        "judge --full a.eval --arm lora=a.eval",
        "log of Inspect",
        "inspect_scores.py",
        a__eval=b"PK",
    ),
    command("a pickle as a log", "judge --full a.pkl --arm lora=a.pkl", "is not a log", ".parquet", a__pkl=b"\x80"),
    table("a broken line of a log", lines(*GOOD[:7], '{"id": "q7", "sc'), lines(*GOOD), "f.jsonl, line 8 is not JSON"),
    table("a log whose line is a list", lines(*GOOD[:3], "[1]"), lines(*GOOD), "f.jsonl, line 4", "object", "list"),
    table("an empty log", b"", lines(*GOOD), "f.jsonl is empty"),
    table("bytes that are not text as a log", b"\xff\xfe\x00", lines(*GOOD), "f.jsonl is not UTF-8"),
    table(
        "an id twice in a log",
        lines(*GOOD, GOOD[3]),
        lines(*GOOD),
        "f.jsonl",
        "1 ids more than once, such as q3",
        "`seed`",
    ),
    table(
        "a score that is not a number",
        lines(*GOOD[:5], {"id": "q5", "score": "good"}),
        lines(*GOOD),
        "f.jsonl, line 6",
        "'good', not a number",
    ),
    table(
        "a score that is NaN",
        lines(*GOOD[:5], '{"id": "q5", "score": NaN}'),
        lines(*GOOD),
        "f.jsonl, line 6",
        "nan",
        "finite",
    ),
    table("a row without a score", lines(*GOOD[:5], {"id": "q5"}), lines(*GOOD), "f.jsonl, line 6", "score is missing"),
    table(
        "a log without a score", lines({"id": "a", "acc": 1}), lines(*GOOD), "needs", "`score`", "id, acc", "--metric"
    ),
    table(
        "a unit that is not a column",
        lines(*GOOD),
        lines(*GOOD),
        "f.jsonl, line 1",
        "topic is missing",
        more="--unit topic",
    ),
    table("a metric that no log has", lines(*GOOD), lines(*GOOD), "`nope`", "id, score", more="--metric nope"),
    table("an id that is a list", lines({"id": [1], "score": 1}), lines(*GOOD), "f.jsonl: id holds list", "not text"),
    table("a score of 1e308", lines({"id": 1, "score": 1e308}), lines(*GOOD), "line 1", "larger than 1e+100"),
    command(
        "a table with two columns of one name",
        "judge --full f.csv --arm lora=f.csv",
        "the column score more than once",
        f__csv=b"id,score,score\n1,1,0\n",
    ),
    command(
        "a table in Latin-1",
        "judge --full f.csv --arm lora=f.csv",
        "id holds binary, which is not text",
        "UTF-8",
        f__csv="id,score\n\u00e9,1\n".encode("latin-1"),
    ),
    table("a margin of 0", lines(*GOOD), lines(*GOOD), "--margin 0", "greater than 0", more="--margin 0"),
    table(
        "percentage points of a score",
        lines(*({**row, "score": 2.5} for row in GOOD)),
        lines(*GOOD),
        "not a share",
        "--margin 0.02",
        more="--margin 1pp",
    ),
    table("the folder of a log as a place to write", lines(*GOOD), lines(*GOOD), "--out .", "f.jsonl", more="--out ."),
    table(
        "a log as a place for the summary",
        lines(*GOOD),
        lines(*GOOD),
        "--summary f.jsonl holds something else",
        more="--fail-on worse --summary f.jsonl",
    ),
    table("a margin of a share of the gain", lines(*GOOD), lines(*GOOD), "no base", "1pp", more="--margin 5%ofgain"),
    table("a margin that is not a number", lines(*GOOD), lines(*GOOD), "margin 'much'", "1pp", more="--margin much"),
    table(
        "scores without a default margin",
        lines(*({**row, "score": 0.3} for row in GOOD)),
        lines(*GOOD),
        "margin has no default",
        "--margin 0.02",
    ),
    table(
        "logs of other items",
        lines(*GOOD),
        lines(*({**row, "id": f"x{row['id']}"} for row in GOOD)),
        "no item",
        "q0",
        "xq0",
    ),
    table(
        "logs of different tasks",
        lines(*({**row, "task": "a"} for row in GOOD)),
        lines(*({**row, "task": "b"} for row in GOOD)),
        "no task in common",
        "full: a; lora: b",
    ),
    table(
        "an arm that a log does not name",
        lines(*({**row, "arm": "full"} for row in GOOD)),
        lines(*({**row, "arm": "dora"} for row in GOOD)),
        "no row has arm 'lora'",
        "dora",
    ),
    table(
        "other prompts in a log",
        lines(*({**row, "prompt": "a"} for row in GOOD)),
        lines(*({**row, "prompt": "b"} for row in GOOD)),
        "40 of 40 items have other prompts",
        "q0",
    ),
    command(
        "the same run twice",
        "judge --full f.jsonl f.jsonl --arm lora=f.jsonl",
        "f.jsonl is named twice",
        f__jsonl=lines(*GOOD),
    ),
    command(
        "checkpoints of one training as seeds",
        "judge --full r/checkpoint-1 r/checkpoint-2 --arm lora=r/checkpoint-1",
        "checkpoints of one training",
        "independent",
        **{f"r/checkpoint-1/{SAMPLES}".replace(".", "__"): lines(sample())},
        **{f"r/checkpoint-2/{SAMPLES}".replace(".", "__"): lines(sample())},
    ),
    command(
        "a CSV with another number of cells",
        "judge --full f.csv --arm lora=f.csv",
        "f.csv",
        f__csv=b"id,score\na,1\nb\n",
    ),
    command("an empty CSV", "judge --full f.csv --arm lora=f.csv", "cannot read f.csv", "Empty CSV file", f__csv=b""),
    command(
        "text as Parquet", "judge --full f.parquet --arm lora=f.parquet", "cannot read f.parquet", f__parquet=b"text"
    ),
    command(
        "a gate on an arm without logs",
        f"{JUDGE} --fail-on worse --arm dora",
        "--arm dora",
        "Known: lora",
        f__jsonl=lines(*GOOD),
        l__jsonl=lines(*GOOD),
    ),
    harness("samples without metrics", [{"doc_id": 0}], [sample()], "not a samples file", "doc_id or metrics"),
    harness("a metric of parts", [sample(acc=[0, 1])], [sample(acc=[0, 1])], "not a mean over items", "--metric"),
    harness(
        "samples of other metrics", [sample()], [sample(metrics=["f1"], f1=1.0)], "metric is acc in full", "f1 in lora"
    ),
    harness(
        "samples of another version of a task",
        [sample()],
        [sample()],
        "version is 1 in full",
        "2 in lora",
        of_full={"versions": {"arc": 1}},
        of_lora={"versions": {"arc": 2}},
    ),
    harness(
        "samples with another number of shots",
        [sample()],
        [sample()],
        "number of shots is 0 in full",
        "5 in lora",
        of_full={"n-shot": {"arc": 0}},
        of_lora={"n-shot": {"arc": 5}},
    ),
    harness(
        "a metric whose better side differs",
        [sample()],
        [sample()],
        "better side of the metric is lower in full",
        "higher in lora",
        of_full={"higher_is_better": {"arc": {"acc": False}}},
        of_lora={"higher_is_better": {"arc": {"acc": True}}},
    ),
    harness(
        "arms that are swapped",
        [sample()],
        [sample()],
        "made with an adapter",
        "swapped",
        of_full=with_args({"peft": "adapter"}),
        of_lora=with_args({}),
    ),
    Case(
        "a results file that is not JSON",
        ("judge", "--full", "f", "--arm", "lora=f"),
        ("cannot read f/results_",),
        {f"f/{SAMPLES}": lines(sample()), f"f/{RESULTS}": b"{"},
    ),
    Case(
        "two logs of a task in a folder",
        ("judge", "--full", "f", "--arm", "lora=f"),
        ("two logs of task arc", "Keep one"),
        {f"f/{SAMPLES}": lines(sample()), f"f/{SAMPLES.replace('30T', '29T')}": lines(sample())},
    ),
]
TOPICS = {"Logs of others": LOGS}
