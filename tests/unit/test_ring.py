"""The ring reader against a model of the kernel's producer (kernel/bpf/ringbuf.c), at any position.

The model reserves, submits and discards like the kernel: a reserved record is busy until its own end, in
any order; a full ring refuses; positions only grow, and wrap in the ring but not in themselves.
"""

from __future__ import annotations

import mmap
import os
import random
from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tcptrace.acquire.ring import BUSY, DISCARDED, Ring, RingError, drain, slot_dtype
from tcptrace.trace import wire

PAGE = mmap.PAGESIZE
RECORDS = {"connection": wire.CONNECTION, "event": wire.EVENT}
# where the record's own number is kept, so that the model can tell one from another
NUMBER = "connection_id"
FARTHEST = (1 << 63) - (1 << 20)


class Model:
    """A ring whose two mappings of the data are two copies, kept alike by every write."""

    def __init__(self, record: np.dtype[np.void], pages: int, laps: int, skip: int) -> None:
        self.record, self.slot = record, slot_dtype(record)
        self.size = pages * PAGE
        self.capacity = self.size // self.slot.itemsize
        start = laps * self.size + skip % self.capacity * self.slot.itemsize
        self.consumer = np.array([start], np.uint64)
        self.producer = np.array([start], np.uint64)
        self.data = np.random.default_rng(0).integers(0, 256, 2 * self.size, np.uint8)
        self.pending: deque[int] = deque()  # positions of busy records
        self.expected: deque[tuple[int, int | None]] = deque()  # (position, number or None: discarded)
        self.numbers = 0

    def write(self, position: int, data: bytes) -> None:
        """Into both mappings."""
        offset = position & (self.size - 1)
        for start in (offset, offset + self.size):
            end = min(start + len(data), len(self.data))
            self.data[start:end] = np.frombuffer(data[: end - start], np.uint8)

    def reserve(self) -> int | None:
        """The position of a new busy record; None when the ring is full."""
        position = int(self.producer[0])
        if position + self.slot.itemsize - int(self.consumer[0]) > self.size:
            return None
        # the record's bytes stay what they were: the reader must not look at them
        self.write(position, np.array([self.record.itemsize | BUSY, 0], "<u4").tobytes())
        self.producer[0] += np.uint64(self.slot.itemsize)
        self.pending.append(position)
        self.expected.append((position, None))
        return position

    def finish(self, position: int, discard: bool) -> None:
        """Submits or discards a busy record."""
        self.pending.remove(position)
        index = next(i for i, (at, _) in enumerate(self.expected) if at == position)
        if discard:
            self.write(position, np.array([self.record.itemsize | DISCARDED], "<u4").tobytes())
            return
        self.numbers += 1
        record = np.zeros((), self.record)
        record[NUMBER] = self.numbers
        record["kind"] = 1 + self.numbers % 5
        self.write(position + 8, record.tobytes())
        self.write(position, np.array([self.record.itemsize], "<u4").tobytes())
        self.expected[index] = (position, self.numbers)

    def drain(self) -> list[int]:
        """What the reader takes: record numbers, after checking that it took exactly what it should."""
        end = min(self.pending, default=int(self.producer[0]))
        due = []
        while self.expected and self.expected[0][0] < end:
            number = self.expected.popleft()[1]
            if number is not None:
                due.append(number)
        before = self.data.copy()
        records = drain(self.consumer, self.producer, self.data, self.slot)
        assert records.dtype == self.record
        assert records[NUMBER].tolist() == due
        assert (records["kind"] == 1 + np.array(due, np.int64) % 5).all()
        assert int(self.consumer[0]) == end
        assert not np.shares_memory(records, self.data)
        assert (self.data == before).all()
        return due


class Traffic(RuleBasedStateMachine):
    """Any order of reserve, submit, discard and drain."""

    @initialize(
        kind=st.sampled_from(sorted(RECORDS)),
        pages=st.sampled_from([1, 2, 4]),
        laps=st.one_of(
            st.integers(0, 3),
            st.integers((1 << 32) // PAGE - 3, (1 << 32) // PAGE + 3),
            st.integers(FARTHEST // (4 * PAGE) - 3, FARTHEST // (4 * PAGE)),
        ),
        skip=st.integers(0, 127),
    )
    def begin(self, kind: str, pages: int, laps: int, skip: int) -> None:
        self.model = Model(RECORDS[kind], pages, laps, skip)

    @rule(count=st.one_of(st.integers(1, 4), st.integers(1, 130)))
    def reserve(self, count: int) -> None:
        for _ in range(count):
            if self.model.reserve() is None:
                assert len(self.model.expected) == self.model.capacity
                return

    @rule(seed=st.integers(0, 1 << 16), share=st.sampled_from([0.1, 0.5, 0.9, 1.0]), bad=st.floats(0, 1))
    def finish_some(self, seed: int, share: float, bad: float) -> None:
        chance = random.Random(seed)
        positions = [position for position in self.model.pending if chance.random() < share]
        chance.shuffle(positions)
        for position in positions:
            self.model.finish(position, chance.random() < bad)

    @rule(bad=st.booleans())
    def finish_the_first(self, bad: bool) -> None:
        if self.model.pending:
            self.model.finish(self.model.pending[0], bad)

    @rule()
    def drain(self) -> None:
        self.model.drain()

    @rule()
    def drain_twice(self) -> None:
        self.model.drain()
        assert self.model.drain() == []

    @invariant()
    def never_more_than_fits(self) -> None:
        if hasattr(self, "model"):
            assert len(self.model.expected) <= self.model.capacity

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        for position in list(self.model.pending):
            self.model.finish(position, discard=False)
        self.model.drain()
        assert not self.model.expected
        assert int(self.model.consumer[0]) == int(self.model.producer[0])


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)


@pytest.fixture(params=sorted(RECORDS))
def model(request: pytest.FixtureRequest) -> Model:
    return Model(RECORDS[request.param], 1, 5, 3)


def fill(model: Model, count: int | None = None) -> list[int]:
    """Reserves so many records, or all that fit. Returns their positions."""
    return [
        position
        for position in (model.reserve() for _ in range(model.capacity if count is None else count))
        if position is not None
    ]


def test_an_empty_ring_gives_an_empty_array(model: Model) -> None:
    assert model.drain() == []


def test_a_full_ring_that_wraps_is_taken_at_once(model: Model) -> None:
    for position in fill(model):
        model.finish(position, discard=False)
    assert model.reserve() is None
    assert model.drain() == list(range(1, model.capacity + 1))
    assert model.drain() == []


@pytest.mark.parametrize("busy", [0, 1, 4, 7])
def test_reading_stops_at_a_busy_record_and_goes_on_from_it(model: Model, busy: int) -> None:
    positions = fill(model, 8)
    for index, position in enumerate(positions):
        if index != busy:
            model.finish(position, discard=False)
    assert len(model.drain()) == busy
    assert model.drain() == []
    model.finish(positions[busy], discard=False)
    assert len(model.drain()) == 8 - busy


def test_discarded_records_are_passed_over(model: Model) -> None:
    for position in fill(model):
        model.finish(position, discard=True)
    assert model.drain() == []
    assert int(model.consumer[0]) == int(model.producer[0])


def test_a_discarded_record_behind_a_busy_one_waits(model: Model) -> None:
    first, second = fill(model, 2)
    model.finish(second, discard=True)
    assert model.drain() == []
    assert int(model.consumer[0]) == first


positions = st.one_of(
    st.integers(0, 1 << 20), st.integers((1 << 32) - 4096, (1 << 32) + 4096), st.integers(0, (1 << 64) - 1)
)


@pytest.mark.parametrize("kind", sorted(RECORDS))
@given(start=positions, pending=st.integers(-(1 << 20), 1 << 20), aligned=st.booleans())
@settings(max_examples=300, deadline=None)
def test_impossible_positions_are_refused_and_nothing_moves(
    kind: str, start: int, pending: int, aligned: bool
) -> None:
    slot = slot_dtype(RECORDS[kind])
    if aligned:
        start, pending = start // slot.itemsize * slot.itemsize, pending // slot.itemsize * slot.itemsize
    end = min(max(start + pending, 0), (1 << 64) - 1)
    consumer, producer = np.array([start], np.uint64), np.array([end], np.uint64)
    data = np.zeros(2 * PAGE, np.uint8)
    data.view(slot)["length"] = RECORDS[kind].itemsize
    possible = 0 <= end - start <= PAGE and start % slot.itemsize == 0 and end % slot.itemsize == 0
    if possible:
        assert len(drain(consumer, producer, data, slot)) == (end - start) // slot.itemsize
        assert int(consumer[0]) == end
        return
    with pytest.raises(RingError, match=str(start)):
        drain(consumer, producer, data, slot)
    assert int(consumer[0]) == start
    assert int(producer[0]) == end


@pytest.mark.parametrize("length", [0, 1, 8, 503, 505, 119, 121, DISCARDED - 1])
def test_a_record_of_another_length_is_refused_and_nothing_moves(model: Model, length: int) -> None:
    for position in fill(model, 3):
        model.finish(position, discard=False)
    start = int(model.consumer[0])
    model.write(start + model.slot.itemsize, np.array([length], "<u4").tobytes())
    with pytest.raises(RingError, match="another size"):
        drain(model.consumer, model.producer, model.data, model.slot)
    assert int(model.consumer[0]) == start


@pytest.mark.parametrize("size", [1, 64, 100, 512])
def test_a_record_that_does_not_tile_the_ring_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=str(size + 8)):
        slot_dtype(np.dtype((np.void, size)))


def test_slots_of_both_records_have_their_header_first() -> None:
    for record, size in ((wire.CONNECTION, 512), (wire.EVENT, 128)):
        slot = slot_dtype(record)
        assert slot.itemsize == size
        assert slot.fields is not None and slot.fields["record"][1] == 8


@pytest.fixture
def mapped() -> Iterator[tuple[Ring, np.ndarray]]:
    """A Ring on a file laid out like a ring buffer's: consumer page, producer page, data twice."""
    size = 2 * PAGE
    fd = os.memfd_create("ring")
    os.ftruncate(fd, 2 * PAGE + 2 * size)
    view = mmap.mmap(fd, 2 * PAGE + 2 * size)
    try:
        yield Ring(fd, size, wire.EVENT), np.frombuffer(view, np.uint8)
    finally:
        os.close(fd)


def test_a_mapped_ring_reads_each_page_at_its_place(mapped: tuple[Ring, np.ndarray]) -> None:
    ring, memory = mapped
    consumer, producer = memory[:8].view(np.uint64), memory[PAGE : PAGE + 8].view(np.uint64)
    slots = memory[2 * PAGE :].view(slot_dtype(wire.EVENT))
    start = (1 << 40) + ring.size_bytes - 128  # the last slot of a lap, then the first of the next
    consumer[0], producer[0] = start, start + 2 * 128
    last = ring.size_bytes // 128 - 1
    for index, number in ((last, 7), (last + 1, 8)):
        slots[index]["length"] = wire.EVENT.itemsize
        slots[index]["record"][NUMBER] = number
    assert ring.fill() == 2 * 128 / ring.size_bytes
    assert ring.drain()[NUMBER].tolist() == [7, 8]
    assert int(consumer[0]) == start + 2 * 128
    assert ring.fill() == 0
    assert len(ring.drain()) == 0
