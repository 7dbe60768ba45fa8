"""Durations and sizes survive reading and writing, and wrong ones are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace import units
from tcptrace.errors import UsageError

LARGEST = (1 << 63) - 1


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("30s", 30 * 10**9),
        ("30", 30 * 10**9),
        ("500ms", 500 * 10**6),
        ("1.5m", 90 * 10**9),
        ("2h", 7200 * 10**9),
        ("5min", 300 * 10**9),
        ("20 us", 20_000),
        ("20µs", 20_000),
        ("1ns", 1),
        ("0.1s", 10**8),
        ("9223372036854775807ns", LARGEST),
    ],
)
def test_durations_are_exact(text: str, ns: int) -> None:
    assert units.parse_duration(text) == ns


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1s", "+1s", "1e3s", "1d", "1.s", ".5s", "nan", "inf", "1s ", "1S", "٣s", "1_000s", "0x1s"],
)
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(UsageError) as error:
        units.parse_duration(text)
    assert repr(text) in str(error.value)
    assert "500ms" in str(error.value)


@pytest.mark.parametrize("text", ["0", "0s", "0.1ns", "9223372036854775808ns", "9999999999999h"])
def test_durations_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="too"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("64K", 65536),
        ("64k", 65536),
        ("64KiB", 65536),
        ("64kb", 65536),
        ("8M", 8 << 20),
        ("1G", 1 << 30),
        ("1.5M", 3 << 19),
        ("7B", 7),
    ],
)
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-8M", "8X", "8MM", "8iB", "0", "0.3", "1.0001K", "9999999999T", "1E3"]
)
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(UsageError) as error:
        units.parse_size(text)
    assert repr(text) in str(error.value)
    assert "64K" in str(error.value)


@pytest.mark.parametrize(
    ("text", "millimetres"),
    [("80km", 80 * 10**6), ("80 km", 80 * 10**6), ("50mi", 80_467_200), ("500m", 500_000), ("0.3m", 300)],
)
def test_distances(text: str, millimetres: int) -> None:
    assert units.parse_distance(text) == millimetres


@pytest.mark.parametrize(
    "text", ["", "80", "km", "-80km", "80 miles", "80KM", "8e1km", "0km", "0.0001m", "9999999999999999km"]
)
def test_what_is_no_distance_is_named(text: str) -> None:
    with pytest.raises(UsageError) as error:
        units.parse_distance(text)
    assert repr(text) in str(error.value)
    assert "80km" in str(error.value)


def test_a_latency_needs_a_unit() -> None:
    assert units.parse_latency("0.5ms") == 500_000
    with pytest.raises(UsageError, match=r"'0.5' has no unit: give one, as in 0.5ms"):
        units.parse_latency("0.5")
    with pytest.raises(UsageError, match="'fast' is no duration"):
        units.parse_latency("fast")


@pytest.mark.parametrize(
    ("millimetres", "text"),
    [(None, "–"), (80 * 10**6, "80 km"), (80_467_200, "80.5 km"), (500_000, "500 m"), (300, "0.300 m")],
)
def test_distances_read_well(millimetres: float | None, text: str) -> None:
    assert units.format_distance(millimetres) == text


@given(st.text(max_size=30))
def test_any_text_is_a_value_or_a_usage_error(text: str) -> None:
    for parse in (units.parse_duration, units.parse_latency, units.parse_distance, units.parse_size):
        try:
            assert 0 < parse(text) <= LARGEST
        except UsageError as error:
            assert repr(text) in str(error)


@given(st.integers(1, LARGEST), st.sampled_from(["", "K", "M", "G"]))
def test_sizes_come_back(number: int, unit: str) -> None:
    scale = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[unit]
    if number * scale <= LARGEST:
        assert units.parse_size(f"{number}{unit}") == number * scale


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0, "0 ns"),
        (812, "812 ns"),
        (999, "999 ns"),
        (1000, "1.00 µs"),
        (20_317, "20.3 µs"),
        (999_499, "999 µs"),
        (999_500, "1.00 ms"),
        (1_020_000_000, "1.02 s"),
        (119_000_000_000, "119 s"),
        (250 * 10**9, "4 min 10 s"),
        (7500 * 10**9, "2 h 5 min"),
        (-20_317, "-20.3 µs"),
        (-250 * 10**9, "-4 min 10 s"),
    ],
)
def test_durations_read_well(ns: float | None, text: str) -> None:
    assert units.format_duration(ns) == text


@given(st.integers(0, LARGEST))
def test_a_formatted_duration_is_near(ns: int) -> None:
    text = units.format_duration(ns)
    scale = {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9, "min": 60e9, "h": 3600e9}
    words = text.split()
    value = sum(float(number) * scale[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert value == pytest.approx(ns, rel=0.009, abs=0.5)


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "–"), (0, "0 B"), (1023, "1023 B"), (65536, "64 KiB"), (1536, "1.50 KiB"), (16 << 20, "16 MiB")],
)
def test_sizes_read_well(size: float | None, text: str) -> None:
    assert units.format_size(size) == text


def test_counts_and_plurals() -> None:
    assert units.format_count(1234567) == "1,234,567"
    assert units.format_count(None) == "–"
    assert units.plural(1, "row") == "1 row"
    assert units.plural(0, "row") == "0 rows"
    assert units.plural(2, "entry", "entries") == "2 entries"
