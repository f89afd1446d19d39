"""Runs on a cluster of Ray: what of it a study gets, and what is refused."""

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from chaos_study import chaos_study, made_alike

from on_ray import by_value, needs_ray
from tunewise.commands import compare as driver
from tunewise.errors import MachineError, SpecError, UserError
from tunewise.executors.ray import cluster, place
from tunewise.executors.ray.client import RayPlaces
from tunewise.executors.ray.cluster import Demand, connected, shared_by
from tunewise.executors.ray.place import OUTCOME, Place, Raised
from tunewise.records import events
from tunewise.records.events import Event
from tunewise.spec import MachineSpec, StudySpec
from tunewise.spec.reading import parse_study

HEAD = {"CPU": 0.0}
SMALL, LARGE = {"CPU": 4.0}, {"CPU": 16.0}
BOX = {"CPU": 64.0, "GPU": 8.0}


def machine(**content: object) -> MachineSpec:
    return MachineSpec.model_validate({"executor": "ray", **content})


@pytest.mark.parametrize(
    ("content", "nodes", "known", "demand", "number"),
    [
        ({"workers": "auto"}, [HEAD, BOX, BOX], None, Demand(1, 1), 16),
        ({"workers": 3}, [BOX, SMALL], None, Demand(1, 1), 3),
        ({"workers": "auto", "device": "cpu"}, [HEAD, BOX, SMALL], None, Demand(4, 0), 17),
        ({"workers": "auto", "threads": 3}, [LARGE, SMALL], None, Demand(3, 0), 6),
        ({"workers": "auto"}, [LARGE, SMALL], 8, Demand(8, 0), 2),
        ({}, [HEAD, SMALL], None, Demand(4, 0), 1),
        ({"workers": 5}, [LARGE, SMALL], None, Demand(4, 0), 5),
        ({"workers": 6}, [LARGE, SMALL], None, Demand(3, 0), 6),
    ],
)
def test_places_have_a_gpu_each_or_as_many_cores_as_a_run_has_threads(
    content: dict[str, object], nodes: list[dict[str, float]], known: int | None, demand: Demand, number: int
) -> None:
    found, needs, places = shared_by(nodes, machine(**content), lambda: known)
    assert needs == demand
    assert places == number
    assert found.threads == (None if demand.gpus else demand.cpus)
    assert demand.places(nodes) >= number, "all of them fit at the same time"


@pytest.mark.parametrize(
    ("content", "nodes", "words"),
    [
        ({"workers": 17}, [BOX, BOX], "room for 16 of the 17 workers.*1 CPU and 1 GPU each.*1 to 16, or auto"),
        ({"workers": 3, "threads": 4}, [SMALL, SMALL], "room for 2 of the 3 workers.*4 CPUs each.*4 CPU, 0 GPU; 4 CPU"),
        ({"threads": 32}, [SMALL], "room for 0 of the 1 workers.*Lower machine.threads"),
        ({"device": "cuda"}, [SMALL], "no node of the Ray cluster has a GPU"),
        ({}, [], "room for 0"),
    ],
)
def test_what_no_node_can_hold_is_refused_instead_of_waiting(
    content: dict[str, object], nodes: list[dict[str, float]], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        shared_by(nodes, machine(**content), lambda: None)


def test_an_unknown_executor_is_refused() -> None:
    with pytest.raises(SpecError, match=r"machine.executor.*'local'.*'ray'"):
        parse_study({"name": "s", "data": {"train": "t"}, "machine": {"executor": "dask"}}, "s.yaml")


def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpecError, match=r"not installed.*pip install 'tunewise\[ray\]'"), connected("auto"):
        pass


@pytest.mark.parametrize("address", ["", "ray://head:10001", "head", "http://head:1", "head:", ":6379", "head:port"])
def test_a_word_that_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(SpecError, match=r"--ray-address is .* Allowed: auto"), connected(address):
        pass


def test_an_address_where_nobody_listens_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "no-such-host.invalid:6379", "127.0.0.1:99999999"):
        with (
            pytest.raises(MachineError, match=rf"no Ray cluster answers at {address}: .*ray start"),
            connected(address),
        ):
            pass


def test_an_address_without_ray_is_refused(tmp_path: Path) -> None:
    study = chaos_study(tmp_path)
    with pytest.raises(SpecError, match="Add --executor ray"):
        driver.compare(study, tmp_path / "s", ray_address="auto")


def test_what_a_place_raised_is_raised_again_by_its_name_alone() -> None:
    """Nothing that travels is unpickled, so a name that is none of ours makes nothing."""
    for kind in (*place.ERRORS, "KeyboardInterrupt", "SystemExit"):
        said = OUTCOME.validate_json(json.dumps({"event": "raised", "kind": kind, "message": "so"}))
        assert isinstance(said, Raised)
        error = said.error()
        assert type(error).__name__ == (kind if kind != "SystemExit" else "KeyboardInterrupt")
    assert OUTCOME.validate_json(events.Done().model_dump_json()) == events.Done()
    assert issubclass(place.ERRORS["LostPlaceError"], UserError)


# --- on a cluster of this machine


class Curious(Place):
    """A place that only says what it may import."""

    def do(self, job: str) -> Iterator[str]:
        yield Raised(kind="TunewiseError", message=json.dumps(sys.path)).model_dump_json()


@pytest.mark.slow
def test_a_study_on_ray_that_loses_places_has_the_records_of_one_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 33 over Ray; nobody else can reach the cluster, and nothing of it is left."""
    needs_ray()
    study = chaos_study(tmp_path)
    driver.compare(study, tmp_path / "here")
    lost: list[int] = []

    def lose(event: Event) -> None:
        if isinstance(event, events.Step) and event.step == 2 and len(lost) < 2:
            found = [of for of in psutil.Process().children(recursive=True) if of.name().startswith("ray::Place")]
            victims = [of for of in found if of.pid not in lost]
            if victims and event.run not in moved:
                lost.append(victims[0].pid)
                victims[0].kill()
        if isinstance(event, events.Moved):
            moved.append(str(event.run))

    moved: list[str] = []
    on_ray = study.replace(machine=study.machine.replace(executor="ray", workers=2))
    driver.compare(on_ray, tmp_path / "ray", lose)
    assert lost
    assert moved, "a run went to another place"
    assert made_alike(tmp_path / "ray") == made_alike(tmp_path / "here")
    assert not [of for of in psutil.Process().children(recursive=True) if "ray" in of.name()]


@pytest.mark.slow
def test_nobody_else_reaches_the_cluster_and_no_file_of_the_current_folder_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_ray()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "study.py")])
    monkeypatch.syspath_prepend(tmp_path)
    with connected(None), by_value(__name__):
        monkeypatch.setattr("tunewise.executors.ray.client.Place", Curious)
        with RayPlaces(Demand(1, 0)).open() as executor, pytest.raises(Exception, match="site-packages") as said:
            list(executor.submit([driver.ask.PrepareJob(study=StudySpec.model_validate(STUDY), root=tmp_path)]))
        mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
        heard = set()
        for process in mine:
            with suppress(psutil.NoSuchProcess):  # an actor may be ending
                heard |= {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    path = json.loads(str(said.value))
    assert str(tmp_path) not in path
    assert heard
    assert heard <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert cluster.SHORT_FOLDER not in path


STUDY = {"name": "s", "data": {"train": "t.jsonl"}, "arms": {"full": {"method": "full"}}}
