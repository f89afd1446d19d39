"""Patterns of strangers: they mean what `re` means, and no pattern hangs."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewise.adapter.patterns import NamePattern, deadline, name_ends
from tunewise.errors import ModelError

NAMES = [
    f"model.layers.{i}.{part}"
    for i in (0, 1, 12)
    for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj", "vision.q_proj")
]
# As people and their tools write them; the long one is of the kind that a trainer makes for multimodal models.
GOOD = [
    "q_proj",
    r".*\.q_proj",
    r".*(q_proj|k_proj)$",
    r"^model\.layers\.(\d+)\.self_attn\.(q|k|v)_proj$",
    r"(?!.*vision).*(?:q_proj|down_proj).*",
    r"model\.layers\.(?:0|1|12)\.mlp\.[a-z_]+",
    r"(?:.*?(?:language|text|layers).*?(?:self_attn|attention|attn|mlp|ffn).*?(?:q_proj|k_proj|v_proj|down_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|k_proj)))",
]
ENDLESS = [
    *(
        "(a+)+$x",
        "(a|a)*x",
        "(a|aa)+$",
        "(.*a){11}",
        "(x+x+)+y",
        "(.*)*x",
        r"(\w+\s?)*$",
        "((a*)*)*b",
        "(a{1,50}){1,50}b",
    ),
    *(".*" * 12 + "x", "a?" * 40 + "a" * 40, "(?:q|q)" * 40, "(?:(?:a|b|ab)+)+c", r"(?=(a+)+$)b", "(?:.*,){30}"),
]


@pytest.mark.parametrize("pattern", GOOD)
@pytest.mark.parametrize("wrap", [str, name_ends])
def test_a_pattern_means_what_re_means(pattern: str, wrap: type[str]) -> None:
    asked = wrap(pattern)
    expected = [name for name in NAMES if re.fullmatch(asked, name)]
    assert NamePattern(asked, "x", 60).matching(NAMES) == expected


@pytest.mark.parametrize("pattern", ENDLESS)
@pytest.mark.parametrize("wrap", [str, name_ends])
def test_a_pattern_that_could_hang_is_refused_before_it_is_tried(pattern: str, wrap: type[str]) -> None:
    with pytest.raises(ModelError, match=r"here: the regular expression .* could take hours.*names of the modules"):
        NamePattern(wrap(pattern), "here", 60)


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "(?P<x>", "[a-z]+*", "(" * 5000, "a" * 20_001, r"\N{x}"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ModelError, match=r"not a valid regular expression|characters; at most"):
        NamePattern(pattern, "here", 60)


def test_matching_many_names_has_an_end() -> None:
    with pytest.raises(ModelError, match="takes more than"):
        NamePattern(".*", "here", 60).matching(NAMES, end=time.monotonic() - 1)
    assert deadline() > time.monotonic()


PIECES = st.sampled_from(["a", "b", ".", "a*", "a+", "(a|b)", "(ab)?", "[ab]", "(a*)", "(a|ab)", "(a)*", r"\.", "$"])


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=6), st.sampled_from(["", "*", "+", "?", "{2}"]))
def test_what_is_taken_matches_as_re_does(pieces: list[str], repeat: str) -> None:
    pattern = f"({''.join(pieces)}){repeat}"
    names = ["a", "ab", "aab", "abab", "a.b", "a" * 30, ""]
    try:
        found = NamePattern(pattern, "x", 30).matching(names)
    except ModelError:
        return
    assert found == [name for name in names if re.fullmatch(pattern, name)]
