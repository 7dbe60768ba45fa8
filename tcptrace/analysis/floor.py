"""The floor under a round trip: what physics asks for, whatever software does.

Light in vacuum makes 299,792,458 m/s; in the glass of a fibre it is slower by the group index of 1.468 (of
common single-mode fibre at 1550 nm; makers give 1.4677 to 1.4682): 4.897 us/km one way. A real fibre is
longer than the distance on a map, so a measured round trip above the floor is route, equipment, or both.
"""

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

LIGHT_M_PER_S = 299_792_458
FIBRE_INDEX = Decimal("1.468")


@dataclass(frozen=True)
class Floor:
    """round_trip_ns: the floor that is compared with. A distance gives it in fibre, and in vacuum beside it;
    both are None when the round trip itself was given."""

    round_trip_ns: int
    distance_mm: int | None = None
    vacuum_ns: int | None = None

    def json(self) -> dict[str, int | float | None]:
        return {
            "round_trip_ns": self.round_trip_ns,
            "distance_km": None if self.distance_mm is None else self.distance_mm / 10**6,
            "fibre_ns": None if self.distance_mm is None else self.round_trip_ns,
            "vacuum_ns": self.vacuum_ns,
        }


def of_distance(millimetres: int) -> Floor:
    """There and back over this distance, to the nearest ns, at least 1."""
    vacuum = Decimal(2 * millimetres) * 10**6 / LIGHT_M_PER_S
    return Floor(_whole(vacuum * FIBRE_INDEX), millimetres, _whole(vacuum))


def of_round_trip(ns: int) -> Floor:
    return Floor(ns)


def reach_mm(round_trip_ns: int) -> int:
    """How far a fibre can go and come back in this time."""
    return _whole(Decimal(round_trip_ns) * LIGHT_M_PER_S / (2 * FIBRE_INDEX * 10**6))


def _whole(value: Decimal) -> int:
    return max(1, int(value.to_integral_value(ROUND_HALF_EVEN)))
