"""What an event says in words, for every tracker that people read."""

from collections.abc import Sequence

from tunewise.errors import clause
from tunewise.records import events
from tunewise.records.events import Event
from tunewise.spec import RunSpec

PREPARING = "loading model and data"
PLANNING = "planning: some steps of each arm are timed"
ROLES = {
    "base": "scoring",
    "short": "short trial",
    "tune": "trial",
    "confirm": "confirmation",
}


def in_words(run: RunSpec) -> str:
    """'trial, rate 0.001, seed 3'."""
    rate = f", rate {run.learning_rate:.3g}, seed {run.seed}" if run.learning_rate else ""
    return f"{ROLES[run.role]}{rate}"


def lines_of(event: Event) -> Sequence[str]:
    """The lines of an event; () for one that moves a bar, or that the driver reports itself."""
    match event:
        case events.Findings():
            return [f"{finding.severity}: {finding.sentence} ({finding.evidence})" for finding in event.findings]
        case events.NextSet():
            return [f"set {event.name} ({event.number} of {event.total})"]
        case events.TooLong():
            return [event.sentence, *(f"  {version}" for version in event.versions)]
        case events.Prospects():
            ending = ["ending here, as --stop-if-hopeless asks: no arm was scored on the test set"]
            said = ["after the search, before any test score:", *(f"  {sentence}" for sentence in event.sentences)]
            return said + ending * event.is_hopeless
        case events.Unplanned():
            return [f"note: {clause(event.message)}. The study continues without it."]
        case events.Crowded():
            return [f"note: {event.message}."]
        case events.Moved():
            return [f"{clause(event.message)}. Its run starts again at another place"]
        case events.Stopped():
            return [event.message]
        case events.Halved():
            return [f"out of memory: retrying with {event.max_tokens:,} tokens per micro-batch"]
        case events.TimedOut():
            return ["run timed out: it exceeded machine.run_limit_seconds"]
        case events.Refused() | events.Crashed() | events.OutOfMemory():
            return [f"run failed: {event.message}"]
        case _:
            return ()
