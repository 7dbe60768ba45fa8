"""The colours of the stages can be told apart, on any background and by any eyes; measured, not believed."""

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

from tcptrace.analysis.stages import GROUPS, STAGES, UNATTRIBUTED
from tcptrace.output import colours, figures
from tcptrace.output.stage_words import WORDS

Vector = npt.NDArray[np.float64]

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
EYES = {
    "usual": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)
APART = 8.0  # CIE76 distance; about 2 can just be seen side by side
THEMES = {
    "light": {group: light for group, (light, _) in colours.PAGES.items()},
    "dark": {group: dark for group, (_, dark) in colours.PAGES.items()},
    "terminal": colours.TERMINAL,
}


def linear(colour: str) -> Vector:
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(rgb: Vector) -> Vector:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("eyes", EYES)
def test_any_two_groups_stay_apart(theme: str, eyes: str) -> None:
    seen = {group: lab(np.array(EYES[eyes]) @ linear(colour)) for group, colour in THEMES[theme].items()}
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > APART, (one, other)


def test_every_colour_is_seen_on_its_background() -> None:
    for light, dark in colours.PAGES.values():
        assert contrast(light, figures.PALETTE["card"][0]) >= 2.9
        assert contrast(dark, figures.PALETTE["card"][1]) >= 2.9
    for colour in colours.TERMINAL.values():
        assert contrast(colour, "#000000") >= 2.5 and contrast(colour, "#ffffff") >= 2.5


def test_every_group_has_its_colour_its_letter_and_every_stage_its_words() -> None:
    assert list(colours.PAGES) == list(colours.TERMINAL) == list(colours.LETTERS) == list(GROUPS)
    assert len(set(colours.LETTERS.values())) == len(GROUPS)
    assert all(len(letter) == 1 and letter.isascii() for letter in colours.LETTERS.values())
    assert list(WORDS) == [*STAGES, UNATTRIBUTED]
    assert len({name for name, _ in WORDS.values()}) == len(WORDS)


def test_the_pages_dark_theme_is_found_by_the_light_colour() -> None:
    light = [pair[0] for pair in (figures.PALETTE | colours.PALETTE).values()]
    assert len(set(light)) == len(light)
