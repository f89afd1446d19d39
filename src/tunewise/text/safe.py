"""Text from outside (data, models, studies, the environment) made safe to print and to store."""

import os
import re
from collections.abc import Mapping

# C0 and C1 control characters except newline and tab, DEL, Unicode line separators, and direction controls (Boucher &
# Anderson 2021, "Trojan Source"): a terminal interprets them, or shows the text in another order.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
TOKEN = re.compile(r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})\b")
PASSWORD_IN_URL = re.compile(r"(?<=://)[^/\s@]+:[^/\s@]+(?=@)")
SECRET_NAME = re.compile(r"TOKEN(?!IZER)|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIAL", re.IGNORECASE)
MIN_SECRET = 8  # characters: a shorter value ("true", "1") is not a secret and occurs in many texts
HIDDEN = "[hidden]"


def printable(text: str) -> str:
    """The text with control characters written out (ESC as \\x1b): a terminal shows but never interprets them."""
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def pictured(text: str) -> str:
    """The text with one visible character for each control character, for tables and paragraphs."""
    return CONTROLS.sub(lambda match: chr(0x2400 + ord(match[0])) if ord(match[0]) < 0x20 else "\ufffd", text)


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without what looks like an access token, and without the secrets of the environment.

    `environment` None: that of this process. Secrets are recognized by name: HF_TOKEN, AWS_SECRET_ACCESS_KEY, ...
    """
    known = os.environ if environment is None else environment
    secrets = {value for name, value in known.items() if SECRET_NAME.search(name) and _may_be_secret(value)}
    for secret in sorted(secrets, key=len, reverse=True):  # longest first: one may be part of another
        text = text.replace(secret, HIDDEN)
    return PASSWORD_IN_URL.sub(HIDDEN, TOKEN.sub(HIDDEN, text))


def _may_be_secret(value: str) -> bool:
    return len(value) >= MIN_SECRET and not value.startswith(("/", ".", "~"))  # a path is not the secret itself


MAX_SOURCE = 4_000  # characters; the Linux limit for paths is 4,095 bytes
MAX_NAME_BYTES = 255  # of one name in a path, on all common file systems


def check_source(source: str) -> str:
    """The name of a file, folder or hub id, if it can be one. Raises ValueError without repeating a secret."""
    if redacted(source) != source:
        raise ValueError(
            "contains an access token or a password, which would be stored with the results. "
            "Remove it: the hub reads its token from the variable HF_TOKEN"
        )
    if controls := re.search(f"{CONTROLS.pattern}|[\n\t]", source):
        shown = controls[0].encode("unicode_escape").decode()
        raise ValueError(f"is not the name of a file, a folder or a hub id: it contains the control character {shown}")
    longest = max(len(part.encode()) for part in source.split("/"))
    if len(source) > MAX_SOURCE or longest > MAX_NAME_BYTES:
        raise ValueError(
            f"is not the name of a file, a folder or a hub id: it has {len(source):,} characters. "
            "Did you give the text itself instead of its file?"
        )
    return source
