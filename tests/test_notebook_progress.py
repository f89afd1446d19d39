"""Live progress in a notebook: in one output below the cell, and nowhere else."""

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from builders import make_run_spec
from conformance.test_trackers import FakeDisplay
from tunewise.records import events
from tunewise.records.events import unheard
from tunewise.trackers import notebook as module
from tunewise.trackers.notebook import NotebookTracker, followed

RUN = make_run_spec(arm="<b>lora", role="confirm", seed=3)
CELL = """
import tempfile
import tunewise as tw
study = tw.parse_study(
    {
        "name": "small",
        "data": {"train": "builtin:tickets", "limit": {"train": 32, "valid": 8, "test": 8}},
        "arms": {"full": {"method": "full", "learning_rate": 3e-3}},
        "train": {"epochs": 1, "batch_size": 16, "evaluations": 1},
        "tuning": {"rates": 1, "cap": 1, "half_steps": False},
        "looks": [2],
        "forgetting": {"tokens": 0},
        "samples": {"count": 0},
        "machine": {"threads": 1, "precision": "fp32", "test_set_ledger": False},
    },
    "notebook",
)
tw.compare(study, tempfile.mkdtemp())
"""


def step(number: int) -> events.Step:
    numbers: dict[str, Any] = {"learning_rate": 1e-3, "gradient_norm": 1.0, "num_targets": 3, "num_tokens": 5}
    return events.Step(run=RUN.run_id, num_steps=9, step=number, loss=2.0, seconds=0.5, **numbers)


def test_one_output_shows_the_study_its_runs_and_messages_and_escapes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    shown = FakeDisplay()
    tracker = NotebookTracker(shown)
    tracker.on(events.Begin(spec=RUN, done=2, expected=7))
    tracker.on(events.Crowded(message="<script>\x1b[2J"))
    tracker.on(step(4))
    assert "step 4" not in shown.shown[0], "steps are drawn only every quarter of a second"
    now[0] += 1
    tracker.on(step(5))
    (page,) = shown.shown
    assert '<progress value="2" max="7">' in page
    assert '<progress value="5" max="9">' in page
    assert "confirmation, rate" in page
    assert "loss 2.000" in page
    assert "&lt;b&gt;lora" in page
    assert "<script>" not in page
    assert "\x1b" not in page
    tracker.on(events.Done(run=RUN.run_id))
    tracker.on(events.End(run=RUN.run_id, code=0))
    (page,) = shown.shown
    assert "3 of 7 runs" in page
    assert "lora" not in page


def test_only_a_kernel_gets_progress_and_a_listener_of_ones_own_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def shell(**attributes: object) -> None:
        of = types.SimpleNamespace(**attributes)
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: of))
        monkeypatch.setitem(sys.modules, "IPython.display", FakeDisplay())

    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert followed(unheard) is unheard
    shell()  # IPython's terminal
    assert followed(unheard) is unheard
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert followed(unheard) is unheard
    shell(kernel=object())
    own: list[object] = []
    assert followed(own.append) == own.append
    assert followed(unheard) != unheard


def test_importing_and_following_never_imports_ipython() -> None:
    code = (
        "import sys, tunewise as tw; tw.compare; from tunewise.trackers.notebook import followed; "
        "followed(print); from tunewise.records.events import unheard; assert followed(unheard) is unheard; "
        "assert not any(name.startswith('IPython') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_compare_in_a_real_kernel_updates_one_output_and_returns_the_result(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    updates: list[str] = []

    class Watched(nbclient.NotebookClient):  # type: ignore[misc, name-defined]
        def process_message(self, msg: Any, cell: Any, index: int) -> Any:
            if msg["msg_type"] == "update_display_data":
                updates.append(msg["content"]["data"]["text/html"])
            return super().process_message(msg, cell, index)

    Watched(book, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for output in book.cells[0].outputs if output.output_type == "display_data"]
    assert len(shown) == 1
    assert "<table>" in shown[0].data["text/html"]
    assert any("step 2 of 2" in update or "step 1 of 2" in update for update in updates)
    assert any("loading model and data" in update for update in [*updates, shown[0].data["text/html"]])
    assert book.cells[0].outputs[-1].output_type == "execute_result"
