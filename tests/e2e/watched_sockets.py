"""Commands whose every call to the network, from any of their processes, is written down and refused."""

import os
from pathlib import Path

# Python imports it before anything else, in the workers of a command, too. Making a socket is no call: urllib3 makes
# one when it is imported, to see whether this machine knows IPv6. Addresses of a network are tuples, of a file texts.
HOOK = """
import os, sys

LOG = os.environ["WATCHED_SOCKETS"]
CALLS = ("socket.connect", "socket.sendto", "socket.sendmsg")
NAMES = ("socket.getaddrinfo", "socket.gethostbyname")

def note(line):
    with open(LOG, "a") as file:
        file.write(line + "\\n")

def watch(event, arguments):
    if event in NAMES or (event in CALLS and isinstance(arguments[1], tuple)):
        note(f"asked: {event} {arguments[-1] if event in CALLS else arguments[0]}")
        raise OSError("no network in this test")

note(f"watching: {os.getpid()}")
sys.addaudithook(watch)
"""


def watched(folder: Path) -> dict[str, str]:
    """An environment for a command; what it asks is in `asked(folder)` afterwards."""
    hook = folder / "watch"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    free = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    path = os.pathsep.join([str(hook), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**free, "PYTHONPATH": path, "WATCHED_SOCKETS": str(folder / "sockets.log"), "HF_HOME": str(folder / "hub")}


def asked(folder: Path) -> list[str]:
    """What the watched processes wanted of the network; at least one process was watched."""
    lines = (folder / "sockets.log").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("watching") for line in lines), "the hook was there"
    return [line for line in lines if line.startswith("asked")]
