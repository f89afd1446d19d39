"""The hub of models and datasets: asked once whether it can be reached, before the libraries ask it for every file."""

from functools import cache

from huggingface_hub import constants, get_session

WAIT_SECONDS = 10  # for the hub's first answer; the library's own limit for a request about a file


@cache
def go_offline_if_unreachable() -> None:
    """Use only what is in the cache if the hub gives no answer.

    Without it the libraries try six times for each file: two minutes until a name that is not cached is refused.
    """
    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=WAIT_SECONDS)
    except Exception:  # each version of the hub's library raises the errors of another HTTP library
        import datasets  # takes seconds, and most machines reach the hub

        constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True
