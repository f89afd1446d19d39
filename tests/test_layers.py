"""The shape of the package: who may import whom, what stays free of torch, and how large a piece may be."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tunewise

ROOT = Path(tunewise.__file__).parent
FILES = {
    ".".join(("tunewise", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

# The rooms from the ground up, and the lower ones that each may import from. Arrows never go up, and the halves, lab
# and desk, do not see each other. `assets` and `errors` are open to all.
GROUND = ("text", "spec", "records", "storage", "inputs", "adapter", "trackers")
ROOMS: dict[str, tuple[str, ...]] = {
    **{room: GROUND[:place] for place, room in enumerate(GROUND)},
    "lab": GROUND,
    "desk": GROUND,
    "executors": (*GROUND, "lab"),
    "commands": (*GROUND, "lab", "desk", "executors"),
    "cli": (*GROUND, "lab", "desk", "executors", "commands"),
}
OPEN_TO_ALL = {"assets", "errors"}
LOOSE = {"__main__", "errors"}  # modules at the root of the package
MOST_MODULES = 14  # directly in one folder

# Parameters beyond 6, `self` apart: name -> the reason.
MANY_PARAMETERS = {
    "tunewise.cli.app.compare": "every parameter is an option of the command",
    "tunewise.cli.app.train": "every parameter is an option of the command",
    "tunewise.cli.app.check": "every parameter is an option of the command",
    "tunewise.cli.app.plan": "every parameter is an option of the command",
    "tunewise.cli.reports.report": "every parameter is an option of the command",
    "tunewise.cli.judge.judge": "every parameter is an option of the command",
    "tunewise.cli.adapter.merge": "every parameter is an option of the command",
    "tunewise.cli.adapter.verify": "every parameter is an option of the command",
    "tunewise.commands.adapters.merge": "the options of the command",
}
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 400, 60, 6
LONG_FILE, MOST_LONG_FILES = 300, 2
LONGEST_CHAIN = 18


def imported(module: str, *, at_run_time: bool) -> set[str]:
    """The modules of the package that `module` imports, those for type checkers alone left out."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    found = set()
    for node in _statements(tree, into_functions=not at_run_time):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            # `from package import module` names the module
            found |= {n if (n := f"{node.module}.{alias.name}") in FILES else str(node.module) for alias in node.names}
    return {name for name in found if name.partition(".")[0] == "tunewise"}


def _statements(node: ast.AST, *, into_functions: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        is_typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_typing or (is_function and not into_functions):
            continue
        yield child
        yield from _statements(child, into_functions=into_functions)


def room_of(module: str) -> str:
    """'desk' of 'tunewise.desk.report.rows'; '' of the package itself."""
    return module.partition(".")[2].partition(".")[0]


@pytest.mark.parametrize("module", [module for module in FILES if room_of(module) in ROOMS])
def test_a_module_imports_only_from_its_room_and_lower_ones(module: str) -> None:
    room = room_of(module)
    for name in imported(module, at_run_time=False):
        assert room_of(name) in {room, *ROOMS[room], *OPEN_TO_ALL}, f"{module} imports {name}"


def test_every_module_is_in_a_room() -> None:
    rooms = {room_of(module) for module in FILES} - {""}
    assert rooms == {*ROOMS, *OPEN_TO_ALL, *LOOSE}
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", *LOOSE}


def test_no_folder_holds_more_than_one_can_see() -> None:
    folders = Counter(path.parent for path in FILES.values() if path.stem != "__init__")
    assert {f"{folder.relative_to(ROOT)}": n for folder, n in folders.items() if n > MOST_MODULES} == {}


def test_no_import_goes_round_in_a_circle() -> None:
    TopologicalSorter(graph()).prepare()  # raises CycleError


def graph() -> dict[str, set[str]]:
    return {module: imported(module, at_run_time=True) for module in FILES}


def test_no_chain_of_imports_is_longer_than_before() -> None:
    imports = graph()
    lengths: dict[str, int] = {}
    for module in TopologicalSorter(imports).static_order():
        lengths[module] = 1 + max((lengths[name] for name in imports.get(module, ()) if name != module), default=0)
    assert max(lengths.values()) <= LONGEST_CHAIN


def test_the_walk_sees_imports_at_the_top_and_in_functions() -> None:
    assert {"tunewise.lab.run.training", "tunewise.lab.methods"} <= imported("tunewise.lab.run.story", at_run_time=True)
    assert "tunewise.lab.prepare" in imported("tunewise.executors.local.server", at_run_time=False)


TORCH_FREE = [
    m for m in FILES if not m.startswith(("tunewise.lab", "tunewise.executors.local.server", "tunewise.__main__"))
]


def test_neither_the_package_nor_the_desk_nor_the_command_line_loads_torch() -> None:
    code = f"""
import importlib, sys
for name in {TORCH_FREE!r}:
    importlib.import_module(name)
    heavy = sorted({{"torch", "transformers", "peft", "datasets"}} & set(sys.modules))
    assert not heavy, f"{{name}} loads {{heavy}}"
import tunewise
for name in tunewise.__all__:
    getattr(tunewise, name)
assert "torch" not in sys.modules, "a public name loads torch"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing_but_itself() -> None:
    code = "import sys, tunewise; print([m for m in sys.modules if m.startswith(('tunewise.', 'pydantic', 'numpy'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_the_object_of_its_home() -> None:
    for name in tunewise.__all__:
        assert getattr(tunewise, name).__name__ == name
    assert set(tunewise.__all__) <= set(dir(tunewise))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = tunewise.no_such_name


# --- sizes


def functions(module: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    def below(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}.{child.name}", child
                yield from below(child, f"{name}.{child.name}")
            else:
                yield from below(child, f"{name}.{child.name}" if isinstance(child, ast.ClassDef) else name)

    yield from below(ast.parse(FILES[module].read_text(encoding="utf-8")), module)


@pytest.mark.parametrize("module", FILES)
def test_files_functions_and_signatures_stay_small(module: str) -> None:
    lines = len(FILES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{module}: {lines} lines"
    for name, function in functions(module):
        assert function.end_lineno is not None
        length = function.end_lineno - function.lineno + 1
        assert length <= MOST_FUNCTION_LINES, f"{name}: {length} lines"
        given = function.args
        parameters = [
            a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs) if a.arg not in ("self", "cls")
        ]
        assert len(parameters) <= MOST_PARAMETERS or name in MANY_PARAMETERS, f"{name}: {len(parameters)} parameters"


def test_few_files_are_long() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in FILES.items()}
    assert len(long := {module: n for module, n in lengths.items() if n > LONG_FILE}) <= MOST_LONG_FILES, long


def test_a_run_is_told_on_one_screen() -> None:
    """From loading to the record, in the order in which it happens."""
    assert len((ROOT / "lab" / "run" / "story.py").read_text(encoding="utf-8").splitlines()) <= 120


def test_every_exception_is_still_needed() -> None:
    there = {name: function.args for module in FILES for name, function in functions(module)}
    for name in MANY_PARAMETERS:
        assert len(there[name].args) > MOST_PARAMETERS, f"{name} needs no exception"


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert not drawers & {part for module in FILES for part in module.split(".")}


@pytest.mark.parametrize("module", FILES)
def test_every_module_says_what_it_is(module: str) -> None:
    if module == "tunewise.__main__":
        return
    assert ast.get_docstring(ast.parse(FILES[module].read_text(encoding="utf-8"))), module


# --- attributes

CONSTRUCTORS = {"__init__", "__post_init__", "__new__"}
CLASSES = {
    f"{module}.{node.name}": node
    for module, path in FILES.items()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef)
}


def set_in(method: ast.FunctionDef) -> set[str]:
    """The attributes of `self` that a method sets."""
    targets = (n for n in ast.walk(method) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store))
    return {target.attr for target in targets if ast.unparse(target.value) == "self"}


def declared(kind: ast.ClassDef) -> set[str]:
    """The attributes that a class has from its constructor on, or names above its methods; those of its bases too."""
    bases = {ast.unparse(base) for base in kind.bases}
    found = set().union(*(declared(base) for base in CLASSES.values() if base.name in bases))
    for node in kind.body:
        if isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            found |= {ast.unparse(target) for target in targets}
        elif isinstance(node, ast.FunctionDef) and node.name in CONSTRUCTORS:
            found |= set_in(node)
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_no_attribute_is_born_outside_of_a_constructor(name: str) -> None:
    """Who reads a constructor knows everything that an object can hold."""
    for node in CLASSES[name].body:
        if isinstance(node, ast.FunctionDef) and node.name not in CONSTRUCTORS:
            assert set_in(node) <= declared(CLASSES[name]), node.name


# --- private names of others

# Python's own: public in spite of their underscore, and its parser of regular expressions, which has no public name.
PUBLIC = {"_asdict", "_exit", "_constants", "_parser"}
HOME_OF_PRIVATE_NAMES = "tunewise.lab.private"


def private_names(module: str) -> set[str]:
    """The names with one leading underscore that `module` takes from somewhere else than itself."""
    found, own = set(), set(PUBLIC)
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (own if is_own else found).add(node.attr)
        elif isinstance(node, ast.Import):
            found |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.ImportFrom):
            found |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            found |= {str(argument.value) for argument in node.args[1:2] if isinstance(argument, ast.Constant)}
    return {name for name in found if name.startswith("_") and not name.startswith("__")} - own


@pytest.mark.parametrize("module", FILES)
def test_private_names_of_other_packages_stand_in_one_file(module: str) -> None:
    """They may change with any version of torch or transformers: one file says why each is needed, and what it was
    tried on."""
    if module != HOME_OF_PRIVATE_NAMES:
        assert not private_names(module), module


def test_the_walk_sees_private_names_however_they_are_reached() -> None:
    found = private_names(HOME_OF_PRIVATE_NAMES)
    assert {"_subclasses", "_python_dispatch", "_cdata", "_commit_hash", "_attn_implementation"} <= found


@pytest.mark.parametrize("module", FILES)
def test_no_module_needs_a_library_for_tests(module: str) -> None:
    names = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not names & {"unittest", "pytest", "hypothesis"}, module
