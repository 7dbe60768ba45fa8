"""No name of a recorded host controls, reorders or hides anything."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.output.escape import decode, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nginx", "nginx"),
        ("naïve café 日本", "naïve café 日本"),
        ("<script>", "<script>"),  # harmless on a terminal; pages escape it on their own
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),
        ("a\nb\tc\rd", "a\\x0ab\\x09c\\x0dd"),
        ("\x07\x08\x7f", "\\x07\\x08\\x7f"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("line\u2028break", "line\\u2028break"),
        ("no\xa0break", "no\\xa0break"),
        ("\u3164", "\\u3164"),
        ("\U000e0041tag", "\\U000e0041tag"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_would_act_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(codec=None)))
def test_the_result_is_one_harmless_printable_line(text: str) -> None:
    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(c)[0] == "C" for c in shown)
    assert all(c == " " or unicodedata.category(c)[0] != "Z" for c in shown)
    assert not any(unicodedata.bidirectional(c) in {"RLO", "LRO", "RLE", "LRE", "RLI", "LRI"} for c in shown)
    shown.encode()
    assert visible(shown) == shown


@given(st.binary(max_size=16))
def test_names_of_the_kernel_end_at_the_first_nul(name: bytes) -> None:
    assert decode(name) == decode(name.split(b"\0")[0])
    assert decode(b"nginx\0" + name[:10]) == "nginx"


def test_bytes_that_are_no_utf8_are_shown_as_bytes() -> None:
    assert decode(b"caf\xe9\0\0") == "caf\\xe9"
