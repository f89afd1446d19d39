"""Writes the pages of docs/reference/, the glossary, the skills, and the file tree in docs/explanation/design.md.

python scripts/write_reference.py            (make reference)

Text comes from where it is kept: help texts, descriptions of fields, comments after fields, docstrings. What has none
of these is explained in scripts/reference/meanings.yaml; examples are in scripts/reference/examples.yaml.
tests/test_reference.py fails where a page is old.
"""

import ast
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tunewise.commands.learn.skills import skills
from tunewise.desk.report.glossary import terms

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "reference"
DATA = ROOT / "scripts" / "reference"
WRITTEN_BY = "<!-- Written by `make reference`. Change the text where it is kept, then run that command. -->\n"
NOTHING = "none"


@cache
def data(name: str) -> dict[str, Any]:
    """One of the files in scripts/reference/."""
    loaded: dict[str, Any] = yaml.safe_load((DATA / name).read_text(encoding="utf-8"))
    return loaded


# --- text of fields --------------------------------------------------------------------------------------------------


def cell(text: str) -> str:
    """The text in a cell of a table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def sentence(text: str) -> str:
    """With a capital letter and a full stop; a name such as `rslora` at its beginning stays."""
    text = cell(text)
    if not text:
        return text
    first = text.split()[0]
    begun = text if re.search(r"[A-Z_.`]|:$", first) else text[0].upper() + text[1:]
    return begun if begun.endswith((".", "?", "!")) else f"{begun}."


@cache
def comments(cls: type) -> dict[str, str]:
    """The comment after each field of a class, or on the lines before it."""
    found: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        if parent in (object, BaseModel) or not parent.__module__.startswith("tunewise"):
            continue
        before = ""
        for line in inspect.getsource(parent).splitlines():
            if alone := re.match(r"    # (.*)", line):
                before = f"{before} {alone[1]}"
            elif field := re.match(r"    (\w+): [^#]*(?:#\s*(.*))?$", line):
                found[field[1]] = (field[2] or before).strip()
                before = ""
            else:
                before = ""
    return found


def meaning(cls: type[BaseModel], name: str) -> str:
    """What a field means: its description, its comment, or the entry of meanings.yaml. Raises KeyError."""
    known = data("meanings.yaml")
    if own := known.get(f"{cls.__name__}.{name}"):
        return sentence(own)
    if described := cls.model_fields[name].description:
        return sentence(described)
    commented = comments(cls).get(name, "")
    if commented and not commented.startswith("None"):
        return sentence(commented)
    return sentence(known[name])


def without_none(text: str, word: str) -> str:
    """The text with `word` instead of Python's None, with a capital letter where a sentence begins."""
    text = re.sub(r"(?<=[;,] )None:", f"{word}:", text)
    return text.replace("None:", f"{word.capitalize()}:")


def type_name(annotation: Any) -> str:
    """A type as a reader meets it: `whole number`, `"a" or "b"`, `list of text`, a linked model."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(parts[0])
    if origin is typing.Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(part) for part in parts))
    if origin in (tuple, list):
        inner = [part for part in parts if part is not Ellipsis]
        kind = type_name(inner[0])
        return f"list of {kind}{'s' * kind.endswith('number')}" if len(set(inner)) == 1 else f"{len(inner)} values"
    if origin is dict:
        return f"mapping of {type_name(parts[0])} to {type_name(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
    return names.get(annotation, "any")


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type names, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models_in(part)


def all_models(top: type[BaseModel]) -> list[type[BaseModel]]:
    """`top` and every model below it, each once."""
    found: list[type[BaseModel]] = [top]
    for model in found:
        for field in model.model_fields.values():
            found += [part for part in dict.fromkeys(models_in(field.annotation)) if part not in found]
    return found


def first_line(thing: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return cell((inspect.getdoc(thing) or "").split("\n\n")[0])


# --- study.yaml ------------------------------------------------------------------------------------------------------


def default_of(field: Any) -> str:
    """The default of a key in code font, or that it is required."""
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "see below"
    value = field.default
    plain = [*value] if isinstance(value, tuple) else value
    if isinstance(plain, str):
        return f"`{plain!r}`" if re.search(r"\s|^$", plain) else f"`{plain}`"
    return NOTHING if plain is None else f"`{yaml.safe_dump(plain, default_flow_style=True).splitlines()[0]}`"


def bounds(field: Any) -> str:
    """The limits of a number: 'at least 1, below 1'."""
    names = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [f"{names[k]} {getattr(m, k):,}" for m in field.metadata for k in names if getattr(m, k, None) is not None]
    return f" ({', '.join(found)})" if found else ""


def keys_table(cls: type[BaseModel], prefix: str, skip: tuple[str, ...] = ()) -> str:
    """Key, type, default and meaning of every field of a section."""
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in cls.model_fields.items():
        if name in skip:
            continue
        kind = re.sub(r"\[(\w+)\]\(#\w+\)", "section", type_name(field.annotation)).replace(" or null", "")
        kind = kind.replace("list of section", "list of sections")
        kind = data("meanings.yaml").get(f"type of {cls.__name__}.{name}", kind)
        said = without_none(meaning(cls, name), "if unset")
        rows.append(f"| `{prefix}{name}` | {cell(kind)}{bounds(field)} | {default_of(field)} | {said} |")
    return "\n".join(rows)


def study_page() -> str:
    """Every key of a study file."""
    from tunewise.spec import StudySpec
    from tunewise.spec.methods import METHOD_SPECS

    sections = {name: next(models_in(field.annotation), None) for name, field in StudySpec.model_fields.items()}
    parts = [WRITTEN_BY, data("meanings.yaml")["introduction of study"], "## Top level\n"]
    parts.append(keys_table(StudySpec, "") + "\n")
    for name, section in sections.items():
        if section is None or name in ("arms", "sets"):  # the keys of a set are those of `data`
            continue
        parts.append(f"## `{name}`\n\n{first_line(section)}\n\n{keys_table(section, f'{name}.')}\n")
        for inner, field in section.model_fields.items():
            if below := next(models_in(field.annotation), None):
                parts.append(
                    f"### `{name}.{inner}`\n\n{first_line(below)}\n\n{keys_table(below, f'{name}.{inner}.')}\n"
                )
    parts.append("## `arms`\n\n" + data("meanings.yaml")["introduction of arms"])
    for name, method in METHOD_SPECS.items():
        parts.append(f"### `method: {name}`\n\n{first_line(method)}\n\n{keys_table(method, '')}\n")
    parts.append(data("meanings.yaml")["end of study"])
    return "\n".join(parts)


# --- report.json and scores.parquet ----------------------------------------------------------------------------------


def report_page() -> str:
    """Every field of report.json, model by model."""
    from tunewise.desk.report.views.view import Report

    parts = [WRITTEN_BY, data("meanings.yaml")["introduction of report"]]
    for model in all_models(Report):
        rows = ["| field | type | meaning |", "| --- | --- | --- |"]
        for name, field in model.model_fields.items():
            said = without_none(meaning(model, name), "null")
            rows.append(f"| `{name}` | {cell(type_name(field.annotation))} | {said} |")
        parts.append(f"## {model.__name__}\n\n{first_line(model)}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def scores_page() -> str:
    """The columns of every Parquet file of a study folder."""
    from tunewise.records import tables

    source = inspect.getsource(tables)
    parts = [WRITTEN_BY, data("meanings.yaml")["introduction of scores"]]
    for name, title in data("meanings.yaml")["tables"].items():
        block = re.search(rf"((?:^# .*\n)*)^{name} = pa\.schema\(\n(.*?)^\)", source, re.S | re.M)
        assert block, name
        rows = ["| column | type | meaning |", "| --- | --- | --- |"]
        noted = {}
        before = ""
        for line in block[2].splitlines():
            if alone := re.match(r"\s+# (.*)", line):
                before = alone[1]
            elif column := re.match(r"\s+\(\"(\w+)\", .*?\),(?:\s*# (.*))?$", line):
                noted[column[1]] = column[2] or before
        for field in getattr(tables, name):
            text = data("meanings.yaml").get(f"column {name}.{field.name}") or noted.get(field.name)
            text = text or data("meanings.yaml")[f"column {field.name}"]
            rows.append(f"| `{field.name}` | `{field.type}` | {sentence(text)} |")
        parts.append(f"## {title['title']}\n\n{title['text']}\n\n" + "\n".join(rows) + "\n")
    parts.append(data("meanings.yaml")["end of scores"])
    return "\n".join(parts)


# --- command line ----------------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Help of every command: what it does, arguments, options with defaults."""
    from tunewise.cli.app import app

    parts = [WRITTEN_BY, data("meanings.yaml")["introduction of cli"], *commands(app, "tunewise")]
    return "\n".join([*parts, data("meanings.yaml")["end of cli"]])


def commands(app: Any, path: str) -> Iterator[str]:
    """The sections of an app's commands, then those of the apps below it."""
    for command in app.registered_commands:
        name = f"{path} {command.name or command.callback.__name__.replace('_', '-')}"
        does = cell(command.help or inspect.getdoc(command.callback) or "")
        yield f"## `{name}`\n\n{does}\n\n{parameters(command.callback)}"
        if example := data("examples.yaml")["commands"].get(name):
            yield f"```sh\n{example.strip()}\n```\n"
    for group in app.registered_groups:
        yield from commands(group.typer_instance, f"{path} {group.name}")


def parameters(callback: Any) -> str:
    """Arguments and options of a command as a table."""
    hints = typing.get_type_hints(callback, include_extras=True)
    rows = ["| argument or option | type | meaning | default |", "| --- | --- | --- | --- |"]
    for name, parameter in inspect.signature(callback).parameters.items():
        kind, info = typing.get_args(hints[name])[:2]
        is_option = type(info).__name__ == "OptionInfo"
        names = " / ".join(option_names(name, kind, info)) if is_option else name.upper()
        says = sentence(info.help or data("meanings.yaml")[f"option {names}"])
        value = parameter.default
        default = "required" if value is inspect.Parameter.empty else "" if value in (None, False) else f"`{value}`"
        default = "on" if value is True else default
        rows.append(f"| `{names}` | {option_type(kind, info)} | {says} | {default} |")
    return "\n".join(rows) + "\n"


def option_names(name: str, kind: Any, info: Any) -> list[str]:
    """The spellings of an option; a switch without spellings of its own has one for on and one for off."""
    plain = name.replace("_", "-")
    first = [info.default] if isinstance(info.default, str) and info.default.startswith("-") else []  # as typer does
    return [*first, *(info.param_decls or ())] or ([f"--{plain}", f"--no-{plain}"] if kind is bool else [f"--{plain}"])


def option_type(kind: Any, info: Any) -> str:
    """TEXT, PATH, INTEGER, flag or the choices."""
    parts = [part for part in typing.get_args(kind) if part is not type(None)]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return option_type(parts[0], info)
    if typing.get_origin(kind) is list:
        return f"{option_type(parts[0], info)} (repeatable)"
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(f"`{part}`" for part in parts)
    names = {bool: "flag", str: "TEXT", Path: "PATH", int: "INTEGER", float: "NUMBER"}
    return "flag" if kind is bool else str(info.metavar or names[kind])


# --- Python API ------------------------------------------------------------------------------------------------------


def api_page() -> str:
    """Every public name: signature, docstring, fields and an example."""
    import tunewise as tw

    groups: dict[str, Any] = data("examples.yaml")["api"]
    named = [name for group in groups.values() for name in group["names"]]
    if missing := set(tw.__all__) - set(named):
        raise KeyError(f"scripts/reference/examples.yaml has no place for {sorted(missing)}")
    parts = [WRITTEN_BY, data("meanings.yaml")["introduction of api"]]
    for title, group in groups.items():
        parts.append(f"## {title}\n")
        parts += [section_of(name, getattr(tw, name)) for name in group["names"]]
        parts.append(f"Example:\n\n```python\n{group['example'].strip()}\n```\n")
    return "\n".join(parts)


def section_of(name: str, thing: Any) -> str:
    """Signature and docstring of one public name."""
    if isinstance(thing, type) and issubclass(thing, BaseModel):
        fields = ", ".join(f"`{field}`" for field in thing.model_fields)
        text = f"{first_line(thing)}\n\nFields: {fields}."
    elif isinstance(thing, type) and issubclass(thing, Exception):
        parent = thing.__mro__[1].__name__
        text = f"{first_line(thing)} A subclass of `{parent}`."
    else:
        text = "\n\n".join(cell(part) for part in (inspect.getdoc(thing) or "").split("\n\n"))
        text = f"```text\n{signature(name, thing)}\n```\n\n{text}"
        if isinstance(thing, type):
            shown = [n for n in vars(thing) if not n.startswith("_") and callable(getattr(thing, n))]
            text += "".join(f"\n\n`{name}.{n}()`: {first_line(getattr(thing, n))}" for n in shown)
    return f"### `{name}`\n\n{text}\n"


def signature(name: str, thing: Any) -> str:
    """The call, with the names of types shortened."""
    shown = re.sub(r"<function \w+ at 0x[0-9a-f]+>", "...", str(inspect.signature(thing)))
    shown = re.sub(r"(?:\w+\.)+(\w+)", r"\1", shown).replace("'", "")
    return f"tunewise.{name}{shown}"


def glossary_page() -> str:
    """Every term in alphabetical order, with a link to the page that says more."""
    parts = [WRITTEN_BY, data("meanings.yaml")["introduction of glossary"]]
    for term in sorted(terms().values(), key=lambda term: term.name.lower()):
        also = f" Also: {', '.join(f'`{name}`' for name in term.also)}." if term.also else ""
        parts.append(f"**{term.name}**\n:   {term.meaning}{also} [More](../{term.page})\n")
    return "\n".join(parts)


def abbreviations() -> str:
    """Tooltips of the documentation site."""
    marked = ((spelling, term.meaning) for term in terms().values() for spelling in term.tooltip)
    return "\n".join(f"*[{spelling}]: {meaning}" for spelling, meaning in sorted(marked))


def skills_page() -> str:
    """Every skill with its proof and its exercise."""
    known: Any = skills().values()
    rows = ["| | you can | proof | read |", "| ---: | --- | --- | --- |"]
    rows += [f"| {one.number} | {one.can} | {one.proof} | [{page_name(one.read)}]({one.read}) |" for one in known]
    tasks = [f"{one.number}. {one.task}\n    *Answer: {', '.join(one.answer)}.*" for one in known]
    texts = [data("meanings.yaml")[f"{part} of skills"] for part in ("introduction", "exercises", "end")]
    return "\n".join([WRITTEN_BY, texts[0], "\n".join(rows) + "\n", texts[1], "\n".join(tasks) + "\n", texts[2]])


def page_name(link: str) -> str:
    """'01' of a note, else the name of the page in words: 'your own data'."""
    stem = Path(link.partition("#")[0]).stem
    return stem[:2] if stem[0].isdigit() else {"gpt2": "GPT-2"}.get(stem, stem.replace("-", " "))


PAGES = {
    "../learn/skills.md": skills_page,
    "../explanation/glossary.md": glossary_page,
    "../abbreviations.md": abbreviations,
    "cli.md": cli_page,
    "study.md": study_page,
    "report-json.md": report_page,
    "scores.md": scores_page,
    "python-api.md": api_page,
}


def file_tree() -> str:
    """The folders of the package, each with the first line of its docstring, as the page on the design shows them."""
    package = ROOT / "src" / "tunewise"
    lines = []
    for path in sorted(package.rglob("__init__.py"), key=lambda path: path.parent.parts):
        parts = path.parent.relative_to(package).parts
        if 0 < len(parts) <= 2:
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            name = f"{'  ' * len(parts)}{parts[-1]}/"
            lines.append(f"{name:18}{docstring.splitlines()[0]}\n")
    return "".join(lines)


def main() -> None:
    """Write every page, and the file tree of the page on the design."""
    DOCS.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (DOCS / name).write_text(page().rstrip() + "\n", encoding="utf-8")
    design = ROOT / "docs" / "explanation" / "design.md"
    before, top, rest = design.read_text(encoding="utf-8").partition("\nsrc/tunewise/\n")
    design.write_text(before + top + file_tree() + "```" + rest.partition("```")[2], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
