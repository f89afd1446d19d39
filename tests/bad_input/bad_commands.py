"""Command lines that cannot be followed, and models and adapters that are not loaded."""

import json
from pathlib import Path
from typing import Any

from bad_input_case import PAIRS, SOUND, Case, command, lines

import tunewise

ROWS = lines(*PAIRS)
STUDY = SOUND.encode()

COMMANDS = [
    command("nothing to compare", "compare", "Give a study file, or --model and --data"),
    command("a study file that is not there", "compare missing.yaml", "no such study file", "tunewise init"),
    command("a folder as a study file", "compare .", "no such study file", "tunewise init"),
    command("an unknown command", "comprae study.yaml", "No such command 'comprae'"),
    command("a term that is not in the glossary", "explain perplexty", "unknown term", "Did you mean 'perplexity'?"),
    command("a skill that is not there", "learn --skill 16", "no skill 16", "1 to 15", "--list"),
    command("an answer of one part to three questions", "learn --skill 6 --answer 8", "3 parts", "NLL", "Given: 1"),
    command("a study that is not there", "learn --skill 7 --answer=nowhere,_", "4 parts", "study folder"),
    command("an unknown option", "compare --modle tiny", "No such option: --modle", "--model"),
    command("an option without its value", "compare --model", "requires an argument"),
    command("a job file that is not there", "worker runs/s/jobs/x.json", "is not a job file", "folder jobs"),
    command(
        "a pickle as a job file", "worker s/jobs/x.json", "not", **{"s/runs/a": b"", "s/jobs/x__json": b"\x80\x04\x95"}
    ),
    command("no worker by option", "compare --model tiny --data t.jsonl --workers 0", "machine.workers", "0"),
    command("two study files", "compare a.yaml b.yaml", "unexpected extra argument", "(b.yaml)"),
    command("an arm without a method", "compare --model tiny --data . --arm lora", "NAME=METHOD", "got 'lora'"),
    command(
        "an arm with a dot in its name", "compare --model tiny --data . --arm a.b=lora", "NAME=METHOD", "'a.b=lora'"
    ),
    command(
        "an arm with a path as its name", "compare --model tiny --data . --arm ../a=lora", "NAME=METHOD", "'../a=lora'"
    ),
    command("a setting without a value", "compare --model tiny --data t.jsonl --set train.epochs", "key=value"),
    command(
        "a setting that is not YAML",
        "compare --model tiny --data t.jsonl --set train.epochs=[1",
        "not a YAML value",
        "line 1",
    ),
    command(
        "a setting that is a tag", "compare --model tiny --data t.jsonl --set seed=!!python/name:os", "not allowed"
    ),
    command(
        "an unknown setting",
        "compare --model tiny --data t.jsonl --set train.epoch=1",
        "train.epoch",
        "Did you mean 'epochs'",
    ),
    command(
        "a folder without training data",
        "compare --model tiny --data d",
        "no file named train.*",
        "notes.md",
        **{"d/notes__md": b"x"},
    ),
    command(
        "which of two arms",
        "train study.yaml",
        "several arms",
        "--only",
        "a, b",
        study__yaml=b"data: {train: t.jsonl}\narms: {a: {method: full}, b: {method: lora}}\n",
    ),
    command(
        "an arm that is not there",
        "train study.yaml --only lora-r9",
        "unknown arm 'lora-r9'",
        "Known: full",
        study__yaml=STUDY,
    ),
    command(
        "a study name that is a path",
        "compare --model tiny --data t.jsonl --set name=../x",
        "'name'",
        "letters",
        t__jsonl=ROWS,
    ),
    command(
        "a budget of nothing", "compare --model tiny --data t.jsonl --budget 0h", "budget '0h'", "'2h'", t__jsonl=ROWS
    ),
    command(
        "a file as the study folder",
        "compare --model tiny --data t.jsonl --out t.jsonl",
        "cannot write the study folder",
        "--out",
        t__jsonl=ROWS,
    ),
    command(
        "a folder of one's own as the study folder",
        "compare --model tiny --data t.jsonl --out .",
        "'.' is not empty and does not hold a study",
        "t.jsonl",
        "Choose a new folder with --out",
        t__jsonl=ROWS,
    ),
    command(
        "a project with a study file as the study folder",
        "compare study.yaml --out p",
        "'p' is not empty and does not hold a study",
        "--out",
        **{"study__yaml": STUDY, "t__jsonl": ROWS, "p/study__yaml": STUDY, "p/figures/paper__svg": b"x"},
    ),
    Case("an empty --out", ("compare", "study.yaml", "--out", ""), ("is empty",), {"study.yaml": STUDY}),
    Case("an empty --to", ("init", "--to", ""), ("is empty",)),
    Case("an empty --records", ("report", "s", "--records", ""), ("is empty",)),
    command("a chart over a study file", "plan --model tiny --svg study.yaml", "study.yaml", ".svg", study__yaml=STUDY),
    command(
        "a folder for a chart",
        "adapter inspect a --svg d.svg",
        "d.svg",
        "it is a folder",
        **{"d__svg/notes__md": b"x"},
    ),
    command(
        "a report of one's own study file", "report p", "no study in p", "tunewise compare", **{"p/study__yaml": STUDY}
    ),
    command("no study in a folder", "report nowhere", "no study in nowhere", "tunewise list"),
    command("lessons on two reports", "report a b --learn", "one study", "--advice"),
    command("no studies below a folder", "list nowhere", "no studies under nowhere"),
    command("an answer from no study", "generate nowhere --prompt x", "no study in nowhere"),
    command(
        "an answer of no token",
        "generate nowhere --prompt x --max-new-tokens 0",
        "--max-new-tokens",
        "greater than or equal to 1",
    ),
    command("an answer to nothing", "generate nowhere", "Missing option '--prompt'"),
    command("a study file that is there", "init --to study.yaml", "exists already", "--to", study__yaml=STUDY),
    command("an unknown card", "plan --model tiny --gpu A1000", "A1000", "A100"),
    command(
        "prices of no card", "plan --model tiny --prices p.yaml", "--gpu", "machine.price_per_hour", p__yaml=b"L4: 1"
    ),
    *(
        command(what, "plan --model tiny --gpu L4 --prices p.yaml", *words, p__yaml=content)
        for what, content, words in [
            (
                "prices in another currency for each card",
                b"L4: {price: 1}",
                ("p.yaml: 'L4'", "a number", "{'price': 1}"),
            ),
            (
                "a near miss of a card in a price file",
                b"L4: 1\nA100-80: 2",
                ("p.yaml: unknown", "Did you mean 'A100-80GB'"),
            ),
            ("a price file without the card", b"T4: 0.4", ("p.yaml: has no price for L4", "only for T4")),
            ("two prices of a card", b"L4: 1\nnvidia l4: 2", ("p.yaml: L4 has two prices",)),
            ("a price below nothing", b"L4: -1", ("p.yaml: 'L4'", "greater than 0", "-1")),
            ("a price of no", b"L4: no", ("p.yaml: 'L4'", "must be a number", "False")),
            ("a currency in bold", b"currency: <b>\nL4: 1", ("p.yaml: currency", "such as EUR or")),
            ("an empty price file", b"", ("p.yaml: must be a mapping", "empty", "Write a price per hour")),
            (
                "a price file that is a tag",
                b"L4: !!python/name:os.system",
                ("p.yaml: not readable as YAML", "not allowed"),
            ),
            ("a price file in Latin-1", b"currency: \xa4\nL4: 1", ("p.yaml", "not UTF-8")),
        ]
    ),
    command("no price file", "plan --model tiny --gpu L4 --prices p.yaml", "no such price file", "Write a price"),
]


def model(what: str, files: dict[str, bytes], *words: str, arm: str = "full=full") -> Case:
    """A model in the folder m that is refused."""
    arguments = ("check", "--model", "./m", "--data", "t.jsonl", "--arm", arm, "--set=forgetting.tokens=0")
    return Case(what, arguments, words, {"t.jsonl": ROWS, **{f"m/{name}": content for name, content in files.items()}})


CONFIG = json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}).encode()
REMOTE = json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}).encode()
REMOTE_CODE = b"open('owned', 'w')\nfrom transformers import GPT2Config as Mine\n"
PICKLE = b"cos\nsystem\n(S'touch owned'\ntR."  # what a pickle can do

TINY = Path(tunewise.__file__).parent / "assets" / "tiny"
TOKENIZER = {name: (TINY / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}


def whole(**keys: Any) -> dict[str, bytes]:
    """The bundled model without its weights, with other keys in its config.json."""
    config = {**json.loads((TINY / "config.json").read_bytes()), **keys}
    return {**TOKENIZER, "config.json": json.dumps(config).encode()}


def index(name: str) -> bytes:
    """An index of shards that names one file for a tensor."""
    return json.dumps({"metadata": {}, "weight_map": {"transformer.wte.weight": name}}).encode()


MODELS = [
    model("a model that is not there", {}, "./m", "no such folder", "tiny"),
    model("a folder that is not a model", {"notes.md": b"x"}, "cannot load the configuration", "config.json"),
    model("a configuration that is not JSON", {"config.json": b"{"}, "cannot load the configuration", "config.json"),
    model("a configuration that is a list", {"config.json": b"[]"}, "cannot load the configuration"),
    model("a configuration without a type", {"config.json": b"{}"}, "cannot load the configuration", "model_type"),
    model("an unknown architecture", {"config.json": b'{"model_type": "zzz"}'}, "cannot load the configuration", "zzz"),
    model(
        "an encoder-decoder", {"config.json": b'{"model_type": "t5", "is_encoder_decoder": true}'}, "encoder-decoder"
    ),
    model("a model with a program", {"config.json": REMOTE, "mine.py": REMOTE_CODE}, "trust_remote_code"),
    model("a model without a tokenizer", {"config.json": CONFIG}, "tokenizer"),
    model(
        "a model in 4 bits",
        whole(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "quantized by bitsandbytes in 4 bits",
        "Name the original model",
        "dequantize()",
    ),
    model("a model of GPTQ", whole(quantization_config={"quant_method": "gptq", "bits": 4}), "GPTQ in 4 bits"),
    model("a model of a billion layers", whole(n_layer=10**9), "num_hidden_layers", "from 1 to 1,000"),
    model("a model of minus five positions", whole(n_positions=-5), "max_position_embeddings to -5", "fewer than 0"),
    model("a vocabulary of 10^11", whole(vocab_size=10**11), "vocab_size", "from 1 to 10,000,000"),
    model("a width that is a text", whole(n_embd="32"), "cannot load the configuration", "expected int"),
    model("a type that is a command", whole(dtype="os.system"), "cannot load the configuration", "os.system"),
    model("a configuration nested 100,000 deep", {"config.json": b"[" * 100_000}, "RecursionError"),
    model(
        "a tokenizer nested 100,000 deep", {**whole(), "tokenizer.json": b"[" * 100_000}, "cannot load the tokenizer"
    ),
    model(
        "an adapter beside a base",
        {**whole(), "adapter_config.json": b"{}"},
        "has an adapter_config.json",
        "existing,path=FOLDER",
    ),
    model("weights that are only a pickle", {**whole(), "pytorch_model.bin": PICKLE}, "only pytorch_model.bin"),
    model(
        "an index that names a pickle",
        {**whole(), "model.safetensors.index.json": index("evil.bin"), "evil.bin": PICKLE},
        "names the file 'evil.bin'",
        "not a .safetensors file",
        "a pickle can run code",
    ),
    model(
        "an index that leads outside",
        {**whole(), "model.safetensors.index.json": index("../m2/model.safetensors")},
        "'../m2/model.safetensors'",
        "outside its folder",
    ),
    model("weights named elsewhere", whole(transformers_weights="../w.safetensors"), "outside its folder"),
    model("weights that are none", {**whole(), "model.safetensors": b"x"}, "cannot load the weights"),
]

TOPICS: dict[str, list[Case]] = {"Command lines": COMMANDS, "Models": MODELS}
