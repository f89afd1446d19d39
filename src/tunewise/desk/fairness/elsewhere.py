"""Rules about arms trained elsewhere: what their trainers left, compared with the other arms and among seeds."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tunewise.desk.fairness.case import Case
from tunewise.desk.fairness.finding import WORDS, Finding, by_arm, count, listed
from tunewise.desk.protocol import trials
from tunewise.records.data import num_steps

Settings = Mapping[str, str]  # of one run by name, as its trainer left them
RATE, SEED = "learning rate", "seed"
SHOWN = 5  # values in a sentence


def trained_elsewhere(case: Case) -> Iterator[Finding]:
    """Arms that were trained elsewhere, under a protocol that cannot be checked here."""
    others = list(case.study.existing_arms)
    if others:
        known = {arm: in_words(_left(case, arm)) for arm in others}
        yield Finding(
            id="trained-elsewhere",
            severity="warns",
            sentence="Arms trained elsewhere are scored as they are. How they were tuned, and on which "
            "data, is not known.",
            evidence=f"{count(len(others), 'arm')}: "
            + ", ".join(f"{arm} ({words})" if words else arm for arm, words in known.items()),
        )


def seeds_not_paired(case: Case) -> Iterator[Finding]:
    """Arms trained elsewhere whose seeds have nothing in common with ours."""
    folders = {arm: method.paths for arm, method in case.study.existing_arms.items() if method.paths}
    if folders:
        yield Finding(
            id="seeds-not-paired",
            severity="note",
            sentence=f"The seeds of {listed(list(folders))} have nothing in common with those of the other arms. Their "
            "intervals count the spread of seeds in both arms, without pairs, so the order of `paths` does not matter.",
            evidence=by_arm(folders, lambda paths: count(len(paths), "folder")),
        )


def not_seeds(case: Case) -> Iterator[Finding]:
    """Folders of one arm that are not seeds of one training: the same seed twice, or other settings."""
    for arm, method in case.study.existing_arms.items():
        if reason := why_not_seeds(_left(case, arm)) if method.paths else None:
            yield Finding(
                id="not-seeds",
                severity="blocks",
                sentence=f"The folders of {arm} are not seeds of one training, so their spread is not that of new "
                "seeds. Name runs that differ in their seed alone, or judge one of them with `path`.",
                evidence=reason,
                arms=(arm,),
                forbids=WORDS,
            )


def other_training(case: Case) -> Iterator[Finding]:
    """Arms trained elsewhere for another number of steps or epochs, or in other batches, than the arms of this study.

    It warns, as an arm of which nothing is known does: the verdict is about the models in these folders.
    """
    train = case.study.train
    ours = {"steps": str(num_steps(case.study, case.data)), "batch size": str(train.batch_size)}
    ours |= {"epochs": str(train.epochs)} if train.max_steps is None else {}
    for arm in case.study.existing_arms if case.full else ():
        if differing := unlike_amounts(_left(case, arm), [ours]):
            yield amount_finding(arm, str(case.full), differing)


def same_rate(case: Case) -> Iterator[Finding]:
    """Adapters trained elsewhere at the rate that our search chose for full fine-tuning."""
    rate = trials.selected_rates(case.study, case.records).get(case.full or "")
    for arm in case.study.existing_arms if rate is not None else ():
        left = _left(case, arm)
        if any("rank" in settings for settings in left) and values(left, RATE) == {f"{rate:g}"}:
            yield rate_finding(arm, str(case.full), f"{rate:g}")


def _left(case: Case, arm: str) -> list[Settings]:
    return [left.settings for left in case.data.left.get(arm, ())]


# --- shared with the judgment of logs


def values(runs: Sequence[Settings], name: str) -> set[str]:
    """The values of a setting that are known."""
    return {settings[name] for settings in runs if name in settings}


def in_words(runs: Sequence[Settings]) -> str:
    """'learning rate 0.0002, steps 300' of all runs, each value once; empty if nothing is known."""
    names = dict.fromkeys(name for settings in runs for name in settings)
    shown = {name: list(dict.fromkeys(settings[name] for settings in runs if name in settings)) for name in names}
    return ", ".join(f"{name} {'/'.join(of[:SHOWN])}" for name, of in shown.items())


def why_not_seeds(runs: Sequence[Settings]) -> str | None:
    """Why runs are not seeds of one training: settings that differ, or one seed in two folders; None: nothing known.

    Steps may differ between seeds, because a checkpoint may have been selected in each run.
    """
    names = dict.fromkeys(name for settings in runs for name in settings if name not in (SEED, "steps"))
    differing = [f"{name} {either(of)}" for name in names if len(of := values(runs, name)) > 1]
    times = Counter(settings[SEED] for settings in runs if SEED in settings)
    differing += [f"seed {seed} in {count(number, 'folder')}" for seed, number in times.items() if number > 1]
    return "; ".join(differing) or None


def unlike_amounts(arm: Sequence[Settings], full: Sequence[Settings]) -> str | None:
    """'steps: 300 against 126': amounts of training that are known of both and differ; None: there are none."""
    found = []
    for name in ("steps", "epochs", "batch size"):
        own, other = ({of[name] for of in map(_amounts, runs) if name in of} for runs in (arm, full))
        if own and other and own != other:
            found.append(f"{name}: {either(own)} against {either(other)}")
    return "; ".join(found) or None


def _amounts(settings: Settings) -> Settings:
    """The settings with the rows of an optimizer step as batch size, where the trainer wrote a batch and how many."""
    try:
        rows = float(settings["batch size"]) * float(settings.get("accumulation", 1))
    except (KeyError, ValueError):  # not known, or a word such as auto
        return {name: value for name, value in settings.items() if name != "batch size"}
    return {**settings, "batch size": f"{rows:g}"}


def either(found: set[str]) -> str:
    """'16/32'."""
    return "/".join(sorted(found)[:SHOWN])


def amount_finding(arm: str, full: str, differing: str) -> Finding:
    """The finding on unlike amounts of training."""
    return Finding(
        id="other-training",
        severity="warns",
        sentence=f"{arm} was not trained as long or in the same batches as {full}, which could explain a difference.",
        evidence=differing,
        arms=(arm,),
    )


def rate_finding(arm: str, full: str, rate: str) -> Finding:
    """The finding on an adapter that was trained at the rate of full fine-tuning."""
    return Finding(
        id="same-rate",
        severity="warns",
        sentence=f"{arm} and {full} were trained at the same learning rate. The best rates of LoRA and of full "
        "fine-tuning differ, often tenfold, so this rate puts one of the two at a disadvantage.",
        evidence=f"learning rate {rate}",
        arms=(arm,),
    )
