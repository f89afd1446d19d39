"""Study files that cannot be run as written, and ones that are odd, but good."""

from bad_input_case import PAIRS, SOUND, Case, key, lines, study, taken

ARMS = "data: {train: t.jsonl}\narms: "
LONG = "9" * 5000
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def good(what: str, text: str, *words: str) -> Case:
    """A study file that is taken."""
    made = study(what, text, *words)
    return taken(Case(made.what, ("check", "study.yaml", "--set=forgetting.tokens=0"), words, made.files))


YAML = [
    study("an empty file", "", "a mapping of keys", "empty", "tunewise init"),
    study("a comment alone", "# my study\n", "a mapping of keys", "empty"),
    study("a list", "- just\n- a list", "a study must be a mapping", "list"),
    study("a bracket that does not end", "arms: [full", "not readable as YAML", "line 1"),
    study("a tab", "data:\n\ttrain: x\n", "not readable as YAML", "line 2", r"\t"),
    study("two documents", f"{SOUND}---\n{SOUND}", "not readable as YAML", "a second document"),
    study("UTF-16", SOUND.encode("utf-16"), "not readable as YAML", "UTF-8"),
    study("Latin-1", SOUND.encode() + b"name: caf\xe9\n", "not readable as YAML", "UTF-8"),
    key("a NUL byte", "name: a\0b\n", "line 3", "0x0"),
    key("a control character", "name: a\x07b\n", "line 3", "0x7"),
    study("a file of 1 MB", SOUND + "#" * (1_000_001 - len(SOUND)), "1,000,001 characters", "at most 1,000,000"),
    key("a key twice", "seed: 1\nseed: 2\n", "line 4", "'seed' appears twice", "Keep one"),
    key("a key twice, within", "train: {epochs: 1, epochs: 2}\n", "line 3", "'epochs' appears twice"),
    key("a number as a key", "1: 2\n", "keys must be text", "is 1", "quotes"),
    study("a number as the name of an arm", f"{ARMS}{{1: {{method: full}}}}", "of 'arms'", "is 1", "quotes"),
    key("null as a key", "null: 2\n", "keys must be text", "None"),
    key("a list as a key", "? [a, b]\n: 2\n", "line 3", "a key must be one word"),
    key(
        "a command in a tag", "x: !!python/object/apply:os.system [touch owned]\n", "line 3", "os.system", "not allowed"
    ),
    key("a tag of one's own", "name: !mine x\n", "line 3", "the tag !mine is not allowed"),
    key("bytes", "model: !!binary aGVsbG8=\n", "line 3", "!!binary is not allowed"),
    key("a set", "metrics: !!set {bleu}\n", "line 3", "!!set is not allowed"),
    study("a billion laughs", LAUGHS + SOUND + "model: *i\n", "aliases", "100,000", "Replace the aliases"),
    study(
        "a billion laughs for peft", f"{LAUGHS}{ARMS}{{p: {{method: peft, type: LORA, options: {{x: *i}}}}}}", "100,000"
    ),
    key(
        "a billion laughs by merging",
        "x: &a {a: 1}\ny: &b {<<: [*a, *a]}\n"
        + "".join(
            f"z{i}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
            for i, (before, name) in enumerate(zip("bcdefgh", "cdefghi", strict=True))
        ),
        "100,000",
    ),
    key("a value that contains itself", "train: &t {epochs: *t}\n", "line 3", "contains itself"),
    key("an alias of nothing", "train: *t\n", "line 3", "undefined alias"),
    key("5,000 brackets in each other", f"x: {'[' * 5000}{']' * 5000}\n", "nested too deep"),
    key("a number of 5,000 digits", f"seed: {LONG}\n", "number", "4300 digits"),
    good("a date as a name", f"{SOUND}name: 2026-13-45\n", "sft"),
    good("an arm that begins as another", f"{ARMS}{{a: &a {{method: lora, rank: 4}}, b: {{<<: *a, rank: 8}}}}", "sft"),
    good("a mark of UTF-8 and line ends of Windows", "\ufeff" + SOUND.replace("\n", "\r\n"), "sft"),
]

KEYS = [
    key("a misspelled key", "trian: {epochs: 3}\n", "unknown key 'trian'", "Did you mean 'train'"),
    key("a misspelled key within", "train: {epoch: 3}\n", "train.epoch", "Did you mean 'epochs'"),
    key("a key that is like no other", "zzz: 1\n", "unknown key 'zzz'", "Known: name, model"),
    key("a key with a dot", "train.epochs: 3\n", "unknown key 'train.epochs'"),
    study("4 bits, all trained", f"{ARMS}{{f: {{method: full, base: nf4}}}}", "'arms.f.base'", "of method lora"),
    study("8 bits", f"{ARMS}{{q: {{method: lora, base: int8}}}}", "arms.q.base", "Use nf4 or nf4-double"),
    study("4 bits and PiSSA", f"{ARMS}{{q: {{method: lora, base: nf4, variant: pissa}}}}", "base cannot be set"),
    key("300 unknown keys", "".join(f"key{i}: 1\n" for i in range(300)), "'key0'", "and 290 more mistakes"),
    study(
        "a misspelled key of an arm",
        f"{ARMS}{{lora: {{method: lora, rnak: 8}}}}",
        "arms.lora.rnak",
        "Did you mean 'rank'",
    ),
    study("a folder and folders", f"{ARMS}{{a: {{method: existing, path: x, paths: [y, z]}}}}", "both are given"),
    study("no folder of a model", f"{ARMS}{{a: {{method: existing}}}}", "arms.a", "path", "paths", "none is given"),
    study("one folder for all seeds", f"{ARMS}{{a: {{method: existing, paths: [x]}}}}", "only one folder", "path: x"),
    study("a folder twice", f"{ARMS}{{a: {{method: existing, paths: [x, y, x]}}}}", "x is named twice", "not seeds"),
    study(
        "fewer folders than seeds",
        f"{ARMS}{{a: {{method: existing, paths: [x, y, z]}}}}",
        "arms.a.paths: 3 folders for the 10 seeds",
        "looks: [3]",
    ),
    study(
        "a folder of one seed that is not there",
        f"{ARMS}{{a: {{method: existing, paths: [x, y]}}}}\nlooks: [2]\nforgetting: {{tokens: 0}}\n",
        "no such folder: x",
    ),
    study("no data", "arms: {full: {method: full}}\n", "'data' is missing", "data: {train: rows.jsonl}"),
    study("no arms", "data: {train: t.jsonl}\n", "'arms' is missing", "arms: {full: {method: full}"),
    study("arms without one", f"{ARMS}{{}}", "arms", "at least 1"),
    key("null for keys", "train:\n", "'train'", "keys with values", "None"),
    key("a text for keys", "train: fast\n", "'train'", "keys with values", "'fast'"),
    study(
        "a file name for data", "data: t.jsonl\narms: {full: {method: full}}\n", "'data'", "'t.jsonl'", "data: {train"
    ),
    study("a list of arms", f"{ARMS}[full]", "'arms'", "['full']", "arms: {full: {method: full}"),
    study("an arm that is a word", f"{ARMS}{{full: full}}", "'arms.full'", "keys with values", "'full'"),
    study("an unknown method", f"{ARMS}{{lora: {{method: lroa}}}}", "unknown method 'lroa'", "Did you mean 'lora'"),
    study("a number as a method", f"{ARMS}{{lora: {{method: 1}}}}", "unknown method '1'", "Known: full, lora"),
    study("an arm without a method", f"{ARMS}{{lora: {{rank: 1}}}}", "'arms.lora' needs a 'method'", "Known: full"),
    study(
        "two arms that are the same", f"{ARMS}{{a: {{method: full}}, b: {{method: full}}}}", "'a' and 'b' are the same"
    ),
]

NUMBERS = [
    key(
        "yes as a number", "train: {epochs: yes}\n", "'train.epochs'", "must be a number", "True", "YAML also reads yes"
    ),
    key("true in a list of numbers", "looks: [true, 5]\n", "'looks.0'", "must be a number", "True"),
    good("a number as text", f"{SOUND}train: {{epochs: '2'}}\n", "sft"),
    key("a word as a number", "train: {epochs: two}\n", "'train.epochs'", "a whole number", "'two'"),
    key("a fraction as a count", "train: {epochs: 1.5}\n", "'train.epochs'", "a whole number", "1.5"),
    key("a negative count", "train: {batch_size: -1}\n", "'train.batch_size'", "greater than or equal to 1", "-1"),
    key("a batch of a billion", "train: {batch_size: 1000000000}\n", "'train.batch_size'", "equal to 100000"),
    key("a number that is NaN", "train: {clip_norm: .nan}\n", "'train.clip_norm'", "finite", "nan"),
    key("infinity", "train: {clip_norm: .inf}\n", "'train.clip_norm'", "finite", "inf"),
    key("400 digits as a count", f"train: {{epochs: {LONG[:400]}}}\n", "'train.epochs'", "9999"),
    key("more epochs than there is time", "train: {epochs: 99999999999}\n", "'train.epochs'", "at most 1,000,000,000"),
    key("null as a number", "seed: null\n", "'seed'", "a whole number", "None"),
    key("a list as a number", "seed: [1]\n", "'seed'", "a whole number", "[1]"),
    key("one number for two", "train: {betas: [0.9]}\n", "'train.betas.1' is missing"),
    key("no worker", "machine: {workers: 0}\n", "machine.workers", "from 1 to 4,096, or auto", "got 0"),
    key("no device", "machine: {devices_per_run: 0}\n", "machine.devices_per_run", "greater than or equal to 1", "0"),
    key(
        "several devices on a cluster",
        "machine: {devices_per_run: 2, executor: ray}\n",
        "devices_per_run: 2",
        "executor: ray",
        "Remove one",
    ),
    key("more devices than cores", "machine: {devices_per_run: 5000, device: cpu}\n", "cores", "devices per run"),
    study(
        "a head on several devices",
        f"{SOUND.replace('full', 'head')}machine: {{devices_per_run: 2}}\n",
        "devices_per_run: 2",
        "arms.head",
        "method lora or full",
    ),
    key("a price of nothing", "machine: {price_per_hour: 0}\n", "machine.price_per_hour", "greater than 0", "got 0"),
    key("an infinite price", "machine: {price_per_hour: .inf}\n", "machine.price_per_hour", "finite number", "inf"),
    key("a price of yes", "machine: {price_per_hour: yes}\n", "machine.price_per_hour", "must be a number", "True"),
    key("a price with its currency", "machine: {price_per_hour: 2 EUR}\n", "price_per_hour", "a number", "'2 EUR'"),
    key("a currency without a price", "machine: {currency: EUR}\n", "EUR has no price", "machine.price_per_hour"),
    key(
        "a sentence as a currency",
        "machine: {price_per_hour: 2, currency: US dollars}\n",
        "machine.currency",
        "such as EUR or €",
        "'US dollars'",
    ),
    key(
        "a price by a near name", "machine: {price_per_hours: 2}\n", "price_per_hours", "Did you mean 'price_per_hour'"
    ),
    key("selection by nothing of its own", "select_by: primary\n", "select_by", "primary is None", "exact_match"),
    key(
        "selection by a value of the whole set",
        "metrics: [{name: bleu}, {name: exact_match}]\nprimary: bleu\nmargin: '0.01'\nselect_by: primary\n",
        "a share of texts",
        "primary is bleu",
        "(exact_match)",
    ),
    key("selection by name", "select_by: exact_match\n", "'select_by'", "'primary'", "'exact_match'"),
    key("all workers", "machine: {workers: all}\n", "machine.workers", "or auto", "'all'"),
    key("looks that do not rise", "looks: [5, 5]\n", "looks must increase", "[5, 5]"),
    key("six looks", "looks: [1, 2, 3, 4, 5, 6]\n", "'looks'", "at most 5"),
    key("an unknown protocol", "protocol: bold\n", "protocol", "adaptive", "fixed", "bold"),
    key("a look of 100,000 seeds", "looks: [100000]\n", "'looks.0'", "999", "100000"),
    key(
        "no study on the test set",
        "studies_per_test_set: 0\n",
        "'studies_per_test_set'",
        "greater than or equal to 1",
        "0",
    ),
    key(
        "half a study on the test set", "studies_per_test_set: 1.5\n", "'studies_per_test_set'", "a whole number", "1.5"
    ),
    key("looks that are not a list", "looks: 5\n", "'looks'", "a list", "5"),
    key(
        "a learning rate below zero",
        "seed: 1\n".replace("seed: 1", "train: {head_learning_rate: -1.0e-4}"),
        "'train.head_learning_rate'",
        "greater than 0",
        "-0.0001",
    ),
    study(
        "a rank of zero", f"{ARMS}{{lora: {{method: lora, rank: 0}}}}", "arms.lora.rank", "1 or more, or auto", "got 0"
    ),
    study("a rank as text", f"{ARMS}{{lora: {{method: lora, rank: '8'}}}}", "arms.lora.rank", "a whole number", "'8'"),
    study(
        "a rank beyond all matrices", f"{ARMS}{{lora: {{method: lora, rank: 1{'0' * 30}}}}}", "arms.lora.rank", "65,536"
    ),
    study(
        "an alpha of 400 digits",
        f"{ARMS}{{lora: {{method: lora, alpha: {LONG[:400]}}}}}",
        "'arms.lora.alpha'",
        "a number",
    ),
    study(
        "not a number for peft",
        f"{ARMS}{{p: {{method: peft, type: LORA, options: {{r: .nan}}}}}}",
        "arms.p.options",
        "finite",
    ),
    key("a margin in words", "margin: a bit\n", "margin 'a bit'", "5% of gain"),
    key("a margin of more than the gain", "margin: 200% of gain\n", "margin", "less than 1", "2.0"),
    key("a margin of 5,000 digits", f"margin: '{LONG}'\n", "margin", "finite"),
    key("true as a margin", "margin: true\n", "'margin'", "must be text", "True"),
    key("a budget in other units", "budget: 3 fortnights\n", "budget '3 fortnights'", "'2h'"),
    key("a budget without end", f"budget: {LONG}h\n", "budget '9999", "'2h'"),
    key("a word for yes or no", "trust_remote_code: maybe\n", "'trust_remote_code'", "true or false", "'maybe'"),
]

SETS = "arms: {f: {method: full}}\ndata: "
TWO = "{train: a.jsonl}, b: {train: b.jsonl}"

CHECKED = study("", f"{SETS}{{sets: {{a: {TWO}}}}}")

TEXTS = [
    Case(
        "sets for a command of one dataset",
        ("check", "study.yaml"),
        ("works on one dataset", "2 (a, b)", "`tunewise compare`"),
        CHECKED.files,
    ),
    study("one set alone", f"{SETS}{{sets: {{a: {{train: a.jsonl}}}}}}", "data.sets needs 2 to 50 sets", "got 1"),
    study("sets as a list", f"{SETS}{{sets: [a.jsonl, b.jsonl]}}", "data.sets must be names", "{a: {train: a.jsonl}"),
    study(
        "a file beside the sets",
        f"{SETS}{{test: t.jsonl, sets: {{a: {TWO}}}}}",
        "data.test: with data.sets",
        "Move it into a set",
    ),
    study(
        "a set twice",
        f"{SETS}{{sets: {{a: {{train: a.jsonl}}, b: {{train: a.jsonl}}}}}}",
        "'a' and 'b' are the same",
        "Remove one",
    ),
    study("a set without rows", f"{SETS}{{sets: {{a: {TWO}, c: {{test: c.jsonl}}}}}}", "'sets.c.train' is missing"),
    study("a set with a path as its name", f"{SETS}{{sets: {{../a: {TWO}}}}}", "set name '../a' is not allowed"),
    study("sets with several looks", f"looks: [3, 5]\n{SETS}{{sets: {{a: {TWO}}}}}", "one look, such as [3]", "[3, 5]"),
    study("sets with a budget", f"budget: 2h\n{SETS}{{sets: {{a: {TWO}}}}}", "not with budget or existing arms"),
    study("sets with a huge seed", f"seed: 20000\n{SETS}{{sets: {{a: {TWO}}}}}", "below 20000 with data.sets", "20000"),
    key(
        "a second metric without a margin",
        "primary: nll\nsecondary: {metric: accuracy}\n",
        "'secondary.margin' is missing",
        "Write secondary: {metric: nll, margin: '0.02'}",
    ),
    key(
        "a misspelled key of the second metric",
        "secondary: {metric: accuracy, margn: 1pp}\n",
        "'secondary.margn'",
        "Did you mean 'margin'",
    ),
    key("a second metric alone", "secondary: nll\n", "'secondary'", "keys with values", "'nll'", "margin: '0.02'"),
    key(
        "the first metric a second time",
        "primary: nll\nsecondary: {metric: nll, margin: 0.02}\n",
        "secondary.metric",
        "already the primary metric",
        "Name another",
    ),
    key(
        "an unknown second metric",
        "secondary: {metric: acuracy, margin: 1pp}\n",
        "secondary.metric: 'acuracy' is not measured",
        "Did you mean 'accuracy'",
    ),
    key(
        "perplexity as the second metric",
        "secondary: {metric: perplexity, margin: 0.1}\n",
        "secondary.metric: perplexity is exp(nll)",
        "Write nll",
    ),
    key(
        "a margin in words for the second metric",
        "secondary: {metric: accuracy, margin: little}\n",
        "secondary.margin",
        "margin 'little'",
        "1pp",
    ),
    key(
        "a column of another task",
        "data: 1\n".replace("data: 1", "primary: f1"),
        "primary: 'f1' is not measured",
        "Known:",
    ),
    key(
        "a primary metric of written text that is not measured",
        "primary: exact_match\n",
        "primary: 'exact_match' is not measured",
        "Add {name: exact_match} to metrics",
    ),
    study(
        "a misspelled column",
        "data: {train: t.jsonl, columns: {promt: q}}\narms: {f: {method: full}}",
        "'promt'",
        "Did you mean",
    ),
    study(
        "a list of columns",
        "data: {train: t.jsonl, columns: [q]}\narms: {f: {method: full}}",
        "'data.columns'",
        "['q']",
    ),
    study(
        "resampling with a validation file",
        "data: {train: t.jsonl, valid: v.jsonl, resample: true}\narms: {f: {method: full}}",
        "data",
        "data.valid is 'v.jsonl'",
        "Remove data.valid",
    ),
    study(
        "resampling with extraction",
        "data: {train: t.jsonl, resample: true}\narms: {f: {method: full, extract: [1]}}",
        "arms.f.extract",
        "one validation set",
        "Remove one of the two",
    ),
    study(
        "resampling as a number of draws",
        "data: {train: t.jsonl, resample: 5}\narms: {f: {method: full}}",
        "'data.resample'",
        "true or false",
    ),
    key("an unknown task", "task: clasify\n", "'task'", "'sft', 'lm' or 'classify'", "'clasify'"),
    key(
        "a broken regular expression",
        "metrics: [{name: x, extract: '('}]\n",
        "not a regular expression",
        "unterminated",
    ),
    key(
        "2,000 brackets as one",
        f"metrics: [{{name: x, extract: '{'(' * 2000}'}}]\n",
        "not a regular expression",
        "nested too deeply",
    ),
    key(
        "a metric's name in capitals",
        "metrics: [{name: X, extract: a}]\n",
        "'metrics.0.name'",
        "lowercase letters",
        "'X'",
    ),
    key("lone surrogate", 'model: "\\ud800"\n', "'model'", "lone surrogate"),
    key("an empty name of a model", "model: ''\n", "'model'", "at least 1 character"),
    key("a number as a model", "model: 7\n", "'model'", "must be text", "7"),
    key("a NUL in a model's name", 'model: "a\\0b"\n', "model", "control character", r"\x00"),
    key("an escape in a model's name", 'model: "a\\e[31mb"\n', "model", "control character", r"\x1b"),
    study(
        "the text instead of its file",
        f"data: {{train: {'word ' * 1000}}}\narms: {{f: {{method: full}}}}",
        "data.train",
        "4,999 characters",
        "Did you give the text itself",
    ),
    study(
        "a file name of 300 characters",
        f"data: {{train: {'x' * 300}.jsonl}}\narms: {{f: {{method: full}}}}",
        "data.train",
        "306 characters",
    ),
    key("an access token in a name", "model: me/hf_abcdefghijklmnopqrstuvwxyz\n", "model", "access token", "HF_TOKEN"),
    key("a password in an address", "model: https://me:secret123@host/model\n", "model", "password", "HF_TOKEN"),
]

NAMES = [
    key("a study named ..", "name: ..\n", "'name'", "letters, digits", "'..'"),
    key("a study named by a path", "name: ../elsewhere\n", "'name'", "letters, digits", "'../elsewhere'"),
    key("a study named by an absolute path", "name: /tmp/elsewhere\n", "'name'", "letters, digits", "'/tmp/elsewhere'"),
    key("a study named by a line and more", 'name: "a\\nb"\n', "'name'", "letters, digits"),
    key("a study's name of 65 letters", f"name: {'a' * 65}\n", "'name'", "at most 64"),
    study("an arm named ..", f"{ARMS}{{..: {{method: full}}}}", "arm name '..'", "letters, digits"),
    study("an arm named by a path", f"{ARMS}{{a/b: {{method: full}}}}", "arm name 'a/b'", "letters, digits"),
    study("an arm named base", f"{ARMS}{{base: {{method: full}}}}", "arm name 'base'"),
    study("an arm named by a mark-up tag", f'{ARMS}{{"<script>": {{method: full}}}}', "arm name '<script>'", "letters"),
    study("an arm named by an escape", f'{ARMS}{{"\\e[31m": {{method: full}}}}', r"arm name '\x1b[31m'", "letters"),
    study("an arm named by a turn of direction", f'{ARMS}{{"a\\u202eb": {{method: full}}}}', r"\u202e", "letters"),
]

SOURCES = [
    study(
        "a file that is not there", SOUND.replace("t.jsonl", "t.json"), "no such file: t.json", "Did you mean 't.jsonl'"
    ),
    study(
        "a folder that is not there", SOUND.replace("t.jsonl", "no/t.jsonl"), "no such file", "folder no does not exist"
    ),
    study(
        "an unknown builtin",
        SOUND.replace("t.jsonl", "builtin:stdlb"),
        "builtin source 'stdlb'",
        "Did you mean 'stdlib'",
    ),
    study("a file named like a hub id", SOUND.replace("t.jsonl", "me/data.jsonl"), "no such file: me/data.jsonl"),
    study(
        "a path above the folder", SOUND.replace("t.jsonl", "../../nothing/t.jsonl"), "no such file", "does not exist"
    ),
]

assert lines(*PAIRS), "the data of these studies is sound"

TOPICS: dict[str, list[Case]] = {
    "Study files": YAML,
    "Keys of a study": KEYS,
    "Numbers of a study": NUMBERS,
    "Texts of a study": TEXTS,
    "Names": NAMES,
    "Sources": SOURCES,
}
