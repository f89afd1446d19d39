"""The command that explains a term of the report."""

from typing import Annotated

import typer

from tunewise.text.output import say


def explain(
    term: Annotated[
        list[str] | None, typer.Argument(help="Term of a report or of the terminal.", metavar="TERM")
    ] = None,
) -> None:
    """Explain a term of the report in two sentences.

    Without a term, list all of them.
    """
    from tunewise.desk.report.glossary import explained, terms

    if not term:
        say("\n".join(terms()))
        return
    found = explained(" ".join(term))
    names = f"{found.name} (also: {', '.join(found.also)})" if found.also else found.name
    say(f"{names}\n{found.meaning}\nMore: docs/{found.page}")
