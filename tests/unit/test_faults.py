"""The link's script decides about made-up segments."""

from __future__ import annotations

import pytest

from tcptrace.lab.faults import Direction, Drop, Late, Script, from_json, to_json
from tcptrace.lab.packet import ACK, FIN, RST, SYN, Segment

CLIENT, SERVER = b"\xfe" * 16, b"\x01" * 16
SECOND = 1_000_000_000


def segment(
    flags: int, *, payload: int = 0, port: int = 5000, sequence: int = 1, back: bool = False
) -> Segment:
    if back:
        return Segment(6, SERVER, CLIENT, 80, port, sequence, 0, flags, payload)
    return Segment(6, CLIENT, SERVER, port, 80, sequence, 0, flags, payload)


def verdicts(script: Script, *segments: Segment) -> list[int]:
    """Rule indices, -1 for what passes; packets come a millisecond apart."""
    results = []
    for number, one in enumerate(segments):
        direction: Direction = "ab" if one.source == CLIENT else "ba"
        results.append(script.decide(one, direction, number * SECOND // 1000)[1])
    return results


def test_first_syn_of_each_flow_is_lost_and_its_repeat_passes() -> None:
    script = Script([Drop("syn", nth=(1,))])
    first, other = segment(SYN), segment(SYN, port=5001)
    assert verdicts(script, first, first, other, other, segment(SYN | ACK, back=True)) == [0, -1, 0, -1, -1]


def test_a_new_syn_on_the_same_tuple_is_a_new_flow() -> None:
    script = Script([Drop("syn", nth=(1,))])
    old, new = segment(SYN, sequence=1), segment(SYN, sequence=900)
    assert verdicts(script, old, old, segment(ACK | FIN), new, new) == [0, -1, -1, 0, -1]


@pytest.mark.parametrize("reverse", [False, True])
def test_crossing_syns_of_a_simultaneous_open_are_one_flow(reverse: bool) -> None:
    script = Script()
    pair = [segment(SYN, sequence=1), segment(SYN, sequence=900, back=True)]
    flows = {script.flow_of(one, 0).number for one in (reversed(pair) if reverse else pair)}
    flows |= {script.flow_of(one, 0).number for one in pair}
    assert flows == {0}


def test_synack_and_data_are_counted_in_their_own_direction() -> None:
    script = Script([Drop("synack", nth=(1,)), Drop("data", nth=(2,), direction="ab")])
    answer, data = segment(SYN | ACK, back=True), segment(ACK, payload=5)
    back = segment(ACK, payload=5, back=True)
    assert verdicts(script, segment(SYN), answer, answer) == [-1, 0, -1]
    assert verdicts(script, data, back, back, data, data) == [-1, -1, -1, 1, -1]


def test_counting_over_all_flows() -> None:
    script = Script([Drop("syn", nth=(2,), over_all_flows=True)])
    flows = [segment(SYN, port=port) for port in (5000, 5001, 5002)]
    assert verdicts(script, *flows) == [-1, 0, -1]


def test_no_number_means_every_one_and_port_narrows() -> None:
    script = Script([Drop("any", port=5001), Drop("rst"), Drop("fin")])
    assert verdicts(script, segment(ACK), segment(ACK, port=5001), segment(ACK, port=5001, back=True)) == [
        -1,
        0,
        0,
    ]
    assert verdicts(script, segment(RST), segment(FIN | ACK)) == [1, 2]


def test_after_idling_once_the_flow_is_dead_for_good() -> None:
    script = Script([Drop(idle_s=2.0)])
    times = [0, 1, 3.5, 3.6, 3.7]
    results = [script.decide(segment(ACK, back=n == 4), "ba" if n == 4 else "ab", int(t * SECOND))[1]
               for n, t in enumerate(times)]  # fmt: skip
    assert results == [-1, -1, 0, 0, 0]
    assert script.decide(segment(ACK, port=5001), "ab", 4 * SECOND)[1] == -1, "another flow is not affected"


def test_what_one_rule_drops_still_counts_for_the_next() -> None:
    script = Script([Drop("syn", nth=(1,)), Drop("syn", nth=(2,))])
    assert verdicts(script, *[segment(SYN)] * 3) == [0, 1, -1]


def test_delays_follow_the_order_of_flows() -> None:
    script = Script(delay_ns=5, flow_delays_ns=(10, 20))
    flows = [script.flow_of(segment(SYN, port=port), 0) for port in (1, 2, 3)]
    assert [script.delay_of(flow) for flow in flows] == [10, 20, 10]
    assert script.delay_of(None) == 5


def test_rules_survive_the_way_to_the_child() -> None:
    rules = (Drop("syn", nth=(1, 3), port=9, name="x"), Drop(idle_s=1.5))
    assert from_json(Drop, to_json(rules)) == rules
    lates = (Late("data", nth=(2,), direction="ab", by_ns=5), Late(by_ns=7))
    assert from_json(Late, to_json(lates)) == lates


def keeping(script: Script, *segments: Segment) -> list[int]:
    """For how much longer each segment is kept; -1 when it is dropped."""
    decisions = [script.decide(one, "ab" if one.source == CLIENT else "ba", 0) for one in segments]
    return [-1 if decision.rule >= 0 else decision.late_ns for decision in decisions]


def test_the_nth_of_a_kind_is_kept_for_longer_and_its_repeat_is_not() -> None:
    script = Script(lates=[Late("data", nth=(2,), direction="ab", by_ns=7)])
    data, back, ack = segment(ACK, payload=5), segment(ACK, payload=5, back=True), segment(ACK)
    assert keeping(script, segment(SYN), data, back, back, ack, data, data) == [0, 0, 0, 0, 0, 7, 0]


def test_keeping_back_leaves_the_delays_of_flows_as_they_are() -> None:
    script = Script(flow_delays_ns=(10, 20), lates=[Late("syn", by_ns=7)])
    decisions = [script.decide(segment(SYN, port=port), "ab", 0) for port in (1, 2)]
    assert [(script.delay_of(one.flow), one.late_ns) for one in decisions] == [(10, 7), (20, 7)]


def test_what_is_dropped_counts_for_what_is_kept_back_and_is_not_kept() -> None:
    script = Script([Drop("data", nth=(1,))], lates=[Late("data", nth=(1, 2), by_ns=7)])
    assert keeping(script, *[segment(ACK, payload=5)] * 3) == [-1, 7, 0]


def test_times_of_rules_that_keep_the_same_segment_add_up() -> None:
    script = Script(lates=[Late("any", by_ns=1), Late("fin", by_ns=2), Late("data", by_ns=4)])
    both, data = segment(ACK | FIN, payload=5), segment(ACK, payload=5)
    assert keeping(script, both, data, segment(ACK)) == [7, 5, 1]


def test_keeping_back_by_port_and_after_idling() -> None:
    script = Script(lates=[Late(port=5001, by_ns=1), Late(idle_s=2.0, by_ns=2)])
    assert keeping(script, segment(ACK), segment(ACK, port=5001)) == [0, 1]
    assert [script.decide(segment(ACK), "ab", at * SECOND).late_ns for at in (1, 4, 5)] == [0, 2, 2]
