"""Names come from whoever ran something on the recorded host, or from whoever made the file: they are shown,
never interpreted.

A terminal obeys control characters (it moves, recolours, retitles, and some answer), bidirectional marks
reorder what stands beside them, and zero-width characters hide. All of them are spelled out.
"""

import unicodedata

# A zero-width joiner and the like hide although they are no control characters to Unicode.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800")


def visible(text: str) -> str:
    """Text with every character that would hide, reorder or control its neighbours spelled out.

    Control, format, private, unassigned and surrogate characters, line and paragraph separators, spaces
    other than the plain one and blank letters become \\xNN, \\uNNNN or \\UNNNNNNNN. Backslashes stay, so
    the result is for reading, not for decoding. A surrogate that stands for an undecodable byte becomes
    that byte's \\xNN. The result is one line, and printing it anywhere in UTF-8 succeeds.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelled(character) if _hides(character) else character for character in text)


def decode(name: bytes) -> str:
    """A fixed-size or terminated name of the kernel (bytes up to the first NUL) as visible text."""
    return visible(name.split(b"\0", 1)[0].decode("utf-8", "surrogateescape"))


def _hides(character: str) -> bool:
    if character == " ":
        return False
    category = unicodedata.category(character)
    return category[0] in "CZ" or character in _BLANK


def _spelled(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
