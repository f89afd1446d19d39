"""The shape of the package: who may import whom, what stays free of torch, and how large a piece may be."""

import ast
import subprocess
import sys
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

# What a module of a layer may import of the package, itself and what stands inside its own layer apart.
PLAIN = (
    "tunewise.storage.disk",
    "tunewise.errors",
    "tunewise.storage.gate",
    "tunewise.spec.quantities",
    "tunewise.text.safe",
    "tunewise.text.plain_yaml",
    "tunewise.text.suggest",
    "tunewise.spec.metrics",
    "tunewise.spec.methods",
    "tunewise.spec.tasks",
    "tunewise.spec.train",
    "tunewise.spec",
    "tunewise.spec.mistakes",
    "tunewise.spec.expand",
    "tunewise.head_arm",
    "tunewise.records",
    "tunewise.records.plan",
    "tunewise.records.selection",
    "tunewise.adapter.records",
    "tunewise.adapter.lowrank",
    "tunewise.adapter.patterns",
    "tunewise.storage.scratch",
    "tunewise.adapter.config",
    "tunewise.adapter.file",
    "tunewise.inputs.named_path",
    "tunewise.inputs.dataset_card",
    "tunewise.inputs.data_folder",
    "tunewise.spec.reading",
)
LAYERS: dict[str, tuple[str, ...]] = {
    "tunewise.errors": (),
    "tunewise.inputs.import_path": (),
    "tunewise.inputs.input_files": PLAIN,
    "tunewise.storage.disk": ("tunewise.errors",),
    "tunewise.storage.gate": ("tunewise.storage.disk", "tunewise.errors"),
    "tunewise.storage.lock": ("tunewise.storage.disk", "tunewise.errors"),
    "tunewise.text.suggest": ("tunewise.errors",),
    "tunewise.text.safe": (),
    "tunewise.text.plain_yaml": (),
    "tunewise.spec.quantities": ("tunewise.text.safe",),
    "tunewise.spec.metrics": ("tunewise.errors", "tunewise.spec.quantities", "tunewise.text.suggest"),
    "tunewise.spec.methods": ("tunewise.spec.quantities",),
    "tunewise.spec.tasks": (),
    "tunewise.spec.train": ("tunewise.spec.quantities",),
    "tunewise.spec": (
        "tunewise.errors",
        "tunewise.spec.methods",
        "tunewise.spec.metrics",
        "tunewise.spec.quantities",
        "tunewise.text.suggest",
        "tunewise.spec.tasks",
        "tunewise.spec.train",
    ),
    "tunewise.spec.expand": ("tunewise.errors", "tunewise.spec.methods", "tunewise.spec"),
    "tunewise.head_arm": ("tunewise.errors", "tunewise.spec"),
    "tunewise.spec.mistakes": ("tunewise.text.suggest", "tunewise.spec"),
    "tunewise.inputs.named_path": ("tunewise.errors",),
    "tunewise.inputs.dataset_card": (
        "tunewise.errors",
        "tunewise.inputs.named_path",
        "tunewise.spec",
        "tunewise.text.plain_yaml",
    ),
    "tunewise.inputs.data_folder": (
        "tunewise.inputs.dataset_card",
        "tunewise.errors",
        "tunewise.inputs.named_path",
        "tunewise.spec",
    ),
    "tunewise.spec.reading": (
        *(
            "tunewise.storage.disk",
            "tunewise.errors",
            "tunewise.text.suggest",
            "tunewise.spec",
            "tunewise.inputs.data_folder",
        ),
        *("tunewise.spec.mistakes", "tunewise.text.safe", "tunewise.text.plain_yaml"),
    ),
    "tunewise.records": ("tunewise.errors", "tunewise.text.suggest", "tunewise.spec"),
    "tunewise.records.plan": ("tunewise.records", "tunewise.spec"),
    "tunewise.records.selection": ("tunewise.records",),
    "tunewise.adapter.records": ("tunewise.spec.quantities",),
    "tunewise.adapter.lowrank": (),
    "tunewise.adapter.patterns": ("tunewise.errors",),
    "tunewise.storage.scratch": ("tunewise.storage.disk", "tunewise.errors"),
    "tunewise.adapter.config": (
        *("tunewise.storage.disk", "tunewise.errors", "tunewise.spec.methods"),
        *("tunewise.spec.mistakes", "tunewise.adapter.patterns", "tunewise.text.suggest"),
    ),
    "tunewise.adapter.file": (
        *("tunewise.adapter.config", "tunewise.storage.disk", "tunewise.errors", "tunewise.storage.scratch"),
        *("tunewise.adapter.lowrank", "tunewise.spec.mistakes", "tunewise.adapter.patterns"),
    ),
    "tunewise.storage.ledger": PLAIN,
    "tunewise.desk": (*PLAIN, "tunewise.storage.ledger"),
    "tunewise.lab": (*PLAIN, "tunewise.storage.ledger"),
    "tunewise.executors": (*PLAIN, "tunewise.storage.ledger", "tunewise.lab", "tunewise.inputs.import_path"),
    "tunewise.cli.progress": PLAIN,
    "tunewise.cli.terminal": ("tunewise.text.safe",),
    "tunewise.text.output": ("tunewise.errors", "tunewise.text.safe"),
}
SEE_EVERYTHING = {
    *("tunewise", "tunewise.commands.compare", "tunewise.commands.planning", "tunewise.commands.adapters"),
    *("tunewise.cli.app", "tunewise.cli.adapter", "tunewise.cli.options", "tunewise.__main__"),
}

# Parameters beyond 6, `self` apart: name -> the reason.
MANY_PARAMETERS = {
    "tunewise.cli.app.compare": "every parameter is an option of the command",
    "tunewise.cli.app.train": "every parameter is an option of the command",
    "tunewise.cli.app.check": "every parameter is an option of the command",
    "tunewise.cli.app.plan": "every parameter is an option of the command",
    "tunewise.cli.adapter.merge": "every parameter is an option of the command",
    "tunewise.cli.adapter.verify": "every parameter is an option of the command",
    "tunewise.commands.adapters.merge": "the options of the command",
}
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 400, 60, 6


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


def layer_of(module: str) -> str:
    return max((name for name in LAYERS if f"{module}.".startswith(f"{name}.")), key=len, default=module)


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_what_its_layer_may_see(module: str) -> None:
    if module in SEE_EVERYTHING:
        return
    layer = layer_of(module)
    assert layer in LAYERS, f"{module} is in no layer: say what it may import"
    for name in imported(module, at_run_time=False):
        assert layer_of(name) in (layer, *LAYERS[layer]), f"{module} imports {name}"


def test_no_import_goes_round_in_a_circle() -> None:
    graph = {module: imported(module, at_run_time=True) for module in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_layers_exist_and_the_walk_sees_their_imports() -> None:
    assert all(any(f"{module}.".startswith(f"{layer}.") for module in FILES) for layer in LAYERS)
    assert {"tunewise.records", "tunewise.lab.methods"} <= imported("tunewise.lab.run.story", at_run_time=True)
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
