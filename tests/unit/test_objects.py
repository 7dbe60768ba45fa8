"""Which object of the eBPF programs is loaded, and how the plain one is loaded beside the main one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tcptrace import resources
from tcptrace.acquire import kernel, libbpf, loader, objects
from tcptrace.acquire.filters import Filters
from tcptrace.errors import HostError

MAIN = [(objects.MAIN, variant) for variant in loader._VARIANTS]
WHOLE = (objects.PLAIN, objects.WHOLE_VARIANT)


class Choice:
    """A choice of providers that has lost some."""

    def __init__(self, lost: int = 0) -> None:
        self.lost = {str(number): "refused" for number in range(lost)}

    def copy(self) -> Choice:
        return Choice()


class Opened:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Loads:
    """A kernel that takes of each object all but so many programs; None: it takes none of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, main: int | None, plain: int | None) -> None:
        self.refuses = {objects.MAIN: main, objects.PLAIN: plain}
        self.tried: list[tuple[str, dict[str, int]]] = []
        self.opened: list[Opened] = []
        monkeypatch.setattr(kernel, "can_compare_and_swap", lambda: True)
        monkeypatch.setattr(loader, "_load_variant", self.load)

    def load(self, name: str, variant: dict[str, int], job: object, choice: Choice) -> Any:
        self.tried.append((name, variant))
        refused = self.refuses[name]
        if refused is None:
            raise loader._Failed(f"{name} is refused", [])
        self.opened.append(Opened())
        return [self.opened[-1]], Choice(refused), variant

    def best(self) -> dict[str, int]:
        """The variant that is used; every other one is closed again."""
        opened, _, variant = loader._load_best(loader._Job(Filters(), 4096, "budget"), Choice())  # type: ignore[arg-type]
        assert [one for one in self.opened if not one.closed] == opened
        return variant


def test_the_main_object_is_enough_where_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads(monkeypatch, main=0, plain=0)
    assert loads.best() == MAIN[0][1]
    assert loads.tried == MAIN[:1]


def test_the_plain_object_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads(monkeypatch, main=None, plain=0)
    assert loads.best() == objects.WHOLE_VARIANT
    assert loads.tried == [*MAIN, WHOLE]


def test_the_plain_object_is_used_as_a_whole_also_with_programs_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Loads(monkeypatch, main=None, plain=2).best() == objects.WHOLE_VARIANT


@pytest.mark.parametrize(("main", "plain", "used"), [(1, 1, MAIN[0][1]), (2, 1, objects.WHOLE_VARIANT)])
def test_of_two_that_lose_programs_the_better_is_used(
    monkeypatch: pytest.MonkeyPatch, main: int, plain: int, used: dict[str, int]
) -> None:
    assert Loads(monkeypatch, main, plain).best() == used


def test_a_kernel_without_its_instructions_is_not_asked_for_the_main_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads = Loads(monkeypatch, main=0, plain=0)
    monkeypatch.setattr(kernel, "can_compare_and_swap", lambda: False)
    assert loads.best() == objects.WHOLE_VARIANT
    assert loads.tried == [WHOLE]


def test_what_refuses_both_is_told_of_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError, match="plain is refused"):
        Loads(monkeypatch, main=None, plain=None).best()


class Program:
    def __init__(self) -> None:
        self.autoload = True

    def set_autoload(self, wanted: bool) -> None:
        self.autoload = wanted


class Map:
    def __init__(self, fd: int) -> None:
        self.fd = fd


class Object:
    """An object file without libbpf."""

    def __init__(self, maps: dict[str, int], programs: list[str], refused: bool = False) -> None:
        self.maps, self.refused = maps, refused
        self.programs = {name: Program() for name in programs}
        self.all_programs = dict(self.programs)
        self.reused: dict[str, int] = {}
        self.config = b""
        self.loaded = self.closed = False

    def map_names(self) -> list[str]:
        return list(self.maps)

    def map(self, name: str) -> Map:
        return Map(self.maps[name])

    def reuse(self, name: str, fd: int) -> None:
        assert not self.loaded
        self.reused[name] = fd

    def set_initial_value(self, name: str, value: bytes) -> None:
        assert name == ".rodata.config"
        self.config = value

    def load(self) -> None:
        if self.refused:
            raise libbpf.BpfError("the kernel refuses the eBPF programs", 22)
        self.loaded = True

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Object, Object]]:
    """Loads these programs beside a main object: that one, and the plain one."""

    def load(*programs: str, refused: bool = False) -> tuple[Object, Object]:
        main = Object({"events": 3, "sockets": 4, "storage": 5, ".rodata.config": 6}, ["walk"])
        plain = Object(
            {"events": 0, "sockets": 0, "calls": 0, ".rodata.config": 0, "plain.bss": 0},
            ["walk", "kprobe_a", "kprobe_b"],
            refused,
        )
        monkeypatch.setattr(resources, "bpf_object", Path)
        monkeypatch.setattr(libbpf, "Object", lambda path: plain)
        try:
            assert objects.beside(main, b"config", programs) is plain  # type: ignore[arg-type, comparison-overlap]
        except BaseException:
            assert plain.closed
            raise
        return main, plain

    return load


def test_the_object_beside_shares_every_map_but_its_own(beside: Callable[..., tuple[Object, Object]]) -> None:
    _, plain = beside("kprobe_a")
    assert plain.reused == {"events": 3, "sockets": 4}
    assert plain.config == b"config"
    assert plain.loaded and not plain.closed


def test_of_the_object_beside_nothing_but_what_is_wanted_is_loaded(
    beside: Callable[..., tuple[Object, Object]],
) -> None:
    _, plain = beside("kprobe_a")
    assert [name for name, program in plain.all_programs.items() if program.autoload] == ["kprobe_a"]
    assert list(plain.programs) == ["kprobe_a"]


def test_an_object_beside_that_is_refused_is_closed(beside: Callable[..., tuple[Object, Object]]) -> None:
    with pytest.raises(libbpf.BpfError):
        beside("kprobe_a", refused=True)


def test_a_program_that_the_plain_object_has_not_is_an_error(
    beside: Callable[..., tuple[Object, Object]],
) -> None:
    with pytest.raises(ValueError, match="kprobe_c"):
        beside("kprobe_a", "kprobe_c")
