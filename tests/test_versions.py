"""What `tunewise --version` says is what is installed."""

from importlib.metadata import version

from typer.testing import CliRunner

import tunewise
from tunewise.cli.app import app


def test_version_names_the_package_and_the_libraries_that_results_depend_on() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0
    assert done.output.startswith(f"tunewise {tunewise.__version__} (python 3.")
    for library in ("torch", "transformers", "peft"):
        assert f"{library} {version(library)}" in done.output
