"""The floor of physics, against figures that anyone can compute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.analysis.floor import of_distance, of_round_trip, reach_mm
from tcptrace.units import parse_distance


def test_eighty_kilometres_of_fibre_take_four_fifths_of_a_millisecond() -> None:
    floor = of_distance(parse_distance("80km"))
    assert floor.round_trip_ns == 783_475  # 160 km x 1.468 / c
    assert floor.vacuum_ns == 533_703
    assert floor.json() == {
        "round_trip_ns": 783_475,
        "distance_km": 80.0,
        "fibre_ns": 783_475,
        "vacuum_ns": 533_703,
    }


def test_a_kilometre_of_fibre_takes_4_9_microseconds_one_way() -> None:
    assert of_distance(10**6).round_trip_ns / 2 == pytest.approx(4897, abs=1)


def test_a_round_trip_is_its_own_floor_and_says_nothing_of_a_distance() -> None:
    floor = of_round_trip(500_000)
    assert floor.round_trip_ns == 500_000
    assert floor.json() == {
        "round_trip_ns": 500_000,
        "distance_km": None,
        "fibre_ns": None,
        "vacuum_ns": None,
    }


@given(st.integers(10**6, 9 * 10**18))
def test_a_floor_reaches_back_to_its_distance(millimetres: int) -> None:
    assert reach_mm(of_distance(millimetres).round_trip_ns) == pytest.approx(millimetres, rel=1e-3)
