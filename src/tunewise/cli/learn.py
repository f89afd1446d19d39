"""The command that walks through the skills of the learner's track."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewise.text.output import say

if TYPE_CHECKING:
    from tunewise.commands.learn.skills import Skill

NOT_YET = 3  # exit status of an answer that is not right
WIDTH = 80  # columns


def learn(
    number: Annotated[
        int | None, typer.Option("--skill", metavar="INTEGER", help="Skill to show; by default the next one.")
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Answer to the exercise, for example '4x 48'; parts separated by spaces."),
    ] = None,
    show_all: Annotated[bool, typer.Option("--list", help="List the skills and what was shown.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Forget what was shown, and exit.")] = False,
) -> None:
    """Learn LoRA: fifteen exercises, checked on this machine.

    Shows the next exercise and asks for its answer. Without a terminal, give the answer with --answer. What was shown
    is kept in learn.json in your state folder.
    """
    from tunewise.commands.learn.skills import skill, skills
    from tunewise.storage.learned import forget, learned

    if reset:
        forget()
        say("Forgotten. The next exercise is the first.")
        return
    shown = learned()
    if show_all:
        _list(skills(), shown)
        return
    following = (n for n in skills() if n not in shown)
    wanted = next(following, None) if number is None else number
    if wanted is None:
        say("All fifteen skills are shown. `tunewise learn --skill 1` repeats an exercise.")
    elif answer is not None:
        if not _is_right(skill(wanted), answer):
            raise typer.Exit(NOT_YET)
    elif _show(skill(wanted)) and number is None:
        for wanted in following:
            if not _show(skill(wanted)):
                break


def _list(skills: "Mapping[int, Skill]", shown: Mapping[int, Any]) -> None:
    for number, one in skills.items():
        say(f"{'✓' if number in shown else ' '} {number:2}  {one.can}")
    done = sum(number in shown for number in skills)
    say(f"\n{done} of {len(skills)} shown. `tunewise learn` shows the next exercise.")


def _show(one: "Skill") -> bool:
    """Print an exercise; in a terminal, ask until the answer is right. True if it is, False if the learner stops."""
    import textwrap

    say(f"\nSkill {one.number}: you can {one.can}.\n\n{textwrap.fill(one.task, WIDTH)}\n\nread: {one.page}")
    say(textwrap.fill(f"answer: {', '.join(one.answer)}", WIDTH, subsequent_indent=" " * 8))
    if not sys.stdin.isatty():
        parts = " ".join(name.upper().replace(" ", "_") for name in one.answer)
        say(f"next: tunewise learn --skill {one.number} --answer '{parts}'")
        return False
    from tunewise.errors import UserError

    while given := _asked():
        try:
            if _is_right(one, given):
                return True
        except UserError as error:
            say(f"{error}")
    return False


def _asked() -> str:
    """A line of the learner; '' to stop."""
    try:
        return input("answer (Enter stops): ").strip()
    except EOFError:
        return ""


def _is_right(one: "Skill", answer: str) -> bool:
    """Check an answer, name its wrong parts, and keep that the skill was shown."""
    from tunewise.commands.learn.skills import wrong_parts
    from tunewise.storage.learned import keep

    if wrong := wrong_parts(one, answer):
        say(f"not yet: {', '.join(wrong)}. Read {one.page}")
        return False
    say(f"right: skill {one.number} is shown.")
    keep(one.number)
    return True
