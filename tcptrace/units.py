"""Durations, sizes and distances as people write and read them.

Parsing is exact (decimal, never binary floating point) and raises UsageError naming the text. Formatting
gives three significant digits and an en dash for what is not known, which is not the same as 0.
"""

import re
from decimal import Decimal

from tcptrace.errors import UsageError

UNKNOWN = "–"

_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9}
_NS |= {"": 10**9, "m": 60 * 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MILLIMETRES = {"m": 1000, "km": 10**6, "mi": 1_609_344}
_LIGHT_YEAR = 9_460_730_472_580_800_000
_NUMBER = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)\s?([a-zµμ]*)", re.ASCII)
_LARGEST = (1 << 63) - 1


def parse_duration(text: str) -> int:
    """Nanoseconds from `500ms`, `30s`, `1.5m`, `2h`; without a unit, seconds.

    The units are ns, us (µs), ms, s, m (min) and h. Fractions below one nanosecond are cut off.
    Raises UsageError for anything else, and for 0 and what does not fit in 63 bits.
    """
    hint = "give a number and a unit, as in 500ms, 30s, 5m or 2h"
    match = _NUMBER.fullmatch(text)
    if match is None or match[2] not in _NS:
        raise UsageError(f"{text!r} is no duration: {hint}")
    value = int(Decimal(match[1]) * _NS[match[2]])
    if not 0 < value <= _LARGEST:
        raise UsageError(f"{text!r} is {'too short' if value == 0 else 'too long'} for a duration: {hint}")
    return value


def parse_latency(text: str) -> int:
    """Nanoseconds like parse_duration(), but never without a unit: nobody means seconds by `0.5`.

    Raises UsageError.
    """
    match = _NUMBER.fullmatch(text)
    if match is not None and not match[2]:
        raise UsageError(f"{text!r} has no unit: give one, as in {text.strip()}ms")
    return parse_duration(text)


def parse_distance(text: str) -> int:
    """Millimetres from `80km`, `500m`, `50mi` (statute miles); there is no distance without a unit.

    Raises UsageError for anything else, for 0, and for what is longer than a light year.
    """
    hint = "give a number and a unit, as in 80km, 500m or 50mi"
    match = _NUMBER.fullmatch(text)
    if match is not None and not match[2]:
        raise UsageError(f"{text!r} has no unit: {hint}")
    if match is None or match[2] not in _MILLIMETRES:
        raise UsageError(f"{text!r} is no distance: {hint}")
    value = int(Decimal(match[1]) * _MILLIMETRES[match[2]])
    if not 0 < value <= _LIGHT_YEAR:
        raise UsageError(f"{text!r} is too {'short' if value == 0 else 'long'} for a distance: {hint}")
    return value


def parse_size(text: str) -> int:
    """Bytes from `64K`, `8M`, `1G` (powers of 1024; `KiB` and `kb` mean the same); without a unit, bytes.

    Raises UsageError for anything else, for 0, for part of a byte, and for what does not fit in 63 bits.
    """
    hint = "give a number of bytes, or one with a unit, as in 64K, 8M or 1G"
    match = _NUMBER.fullmatch(text.lower())
    unit = match and re.fullmatch(r"([kmgt]?)(?:i?b)?", match[2])
    if match is None or not unit or match[2] == "ib":
        raise UsageError(f"{text!r} is no size: {hint}")
    value = Decimal(match[1]) * _BYTES[unit[1]]
    if not 0 < value <= _LARGEST or value != int(value):
        problem = "nothing" if value == 0 else "too much" if value > _LARGEST else "no whole number of bytes"
        raise UsageError(f"{text!r} is {problem}: {hint}")
    return int(value)


def format_duration(ns: float | None) -> str:
    """Nanoseconds in the unit that reads best: `812 ns`, `20.3 µs`, `1.02 s`, `4 min 10 s`, `2 h 5 min`."""
    if ns is None or ns != ns:
        return UNKNOWN
    if abs(ns) < 999.5:
        return f"{ns:.0f} ns"
    for scale, unit in ((1e3, "µs"), (1e6, "ms")):
        if abs(ns) < 999.5 * scale:
            return f"{significant(ns / scale)} {unit}"
    if abs(ns) < 119.5e9:
        return f"{significant(ns / 1e9)} s"
    sign = "-" if ns < 0 else ""
    minutes, seconds = divmod(round(abs(ns) / 1e9), 60)
    if minutes < 60:
        return f"{sign}{minutes} min {seconds} s"
    hours, minutes = divmod(round(abs(ns) / 60e9), 60)
    return f"{sign}{hours} h {minutes} min"


def format_size(size_bytes: float | None) -> str:
    """Bytes in binary units: `512 B`, `64 KiB`, `1.5 GiB`."""
    if size_bytes is None or size_bytes != size_bytes:
        return UNKNOWN
    for scale, unit in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if abs(size_bytes) >= scale:
            whole = size_bytes % scale == 0
            return f"{f'{size_bytes / scale:.0f}' if whole else significant(size_bytes / scale)} {unit}"
    return f"{size_bytes:.0f} B"


def format_distance(millimetres: float | None) -> str:
    """`80 km`, `80.5 km`, `500 m`, `0.300 m`."""
    if millimetres is None or millimetres != millimetres:
        return UNKNOWN
    scale, unit = (10**6, "km") if millimetres >= 10**6 else (10**3, "m")
    whole = millimetres % scale == 0
    return f"{f'{millimetres / scale:.0f}' if whole else significant(millimetres / scale)} {unit}"


def format_count(number: float | None) -> str:
    """A whole number with groups of three: `12,345`."""
    return UNKNOWN if number is None or number != number else f"{number:,.0f}"


def plural(number: float | None, one: str, many: str | None = None) -> str:
    """`1 row`, `2 rows`, `– rows` when it is not known."""
    return f"{format_count(number)} {one if number == 1 else many or one + 's'}"


def significant(value: float) -> str:
    """Three significant digits, never an exponent: 0.812, 8.12, 81.2, 812, 8120."""
    for limit, digits in ((0.9995, 3), (9.995, 2), (99.95, 1)):
        if abs(value) < limit:
            return f"{value:.{digits}f}" if value else "0"
    return f"{value:.0f}"
