"""What the lab says of its scenarios: verdicts, the table, exit codes. Nothing is played here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tcptrace import cli
from tcptrace.errors import HostError, TcptraceError
from tcptrace.lab import play, scenario, verify
from tcptrace.lab.checks import Check, at_least, at_most, close, same
from tcptrace.lab.faults import Drop
from tcptrace.lab.scenario import Scenario, Topology
from tcptrace.lab.verify import Outcome

CHECKS = {
    "right": [close("total", 1_000_000, 1_000_400, relative=0.001), same("rows", 3, 3)],
    "wrong": [same("rows", 3, 3), same("close_reason", "fin", "open")],
    "unknown": [close("total", 1_000_000, None, relative=9.0)],
    "empty": [],
}


def made(name: str, **options: Any) -> Scenario:
    def nothing(_part: object) -> None: ...

    options.setdefault("checks", (lambda truth, rows: CHECKS[name]) if name in CHECKS else None)
    return Scenario(
        name=name, chapter="latency", title=f"about {name}", teaches="a lesson", server=nothing,
        client=nothing, truth=lambda witness: {}, **options,
    )  # fmt: skip


@pytest.fixture
def playing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenarios play without a host: their names say what comes of it."""

    def play_(chosen: Scenario, trace: Path, **_: Any) -> play.Played:
        if chosen.name == "cannot":
            raise HostError("no /dev/net/tun")
        if chosen.name == "failed":
            raise TcptraceError("the client: it broke")
        return play.Played(trace, {}, "veth")

    class NoRows:
        lost = 0

        def __init__(self, path: Path) -> None:
            pass

    monkeypatch.setattr(verify, "between_namespaces", play_)
    monkeypatch.setattr(verify, "Rows", NoRows)


@pytest.mark.parametrize(
    ("name", "verdict", "code"),
    [
        ("right", "ok", 0),
        ("wrong", "broken", 1),
        ("unknown", "broken", 1),
        ("empty", "no check", 1),
        ("unchecked", "no check", 1),
        ("cannot", "cannot", 3),
        ("failed", "failed", 1),
    ],
)
def test_a_verdict_is_green_only_when_every_check_holds(
    playing: None, name: str, verdict: str, code: int
) -> None:
    outcomes = list(verify.verify([made(name)]))
    assert [one.verdict for one in outcomes] == [verdict]
    assert verify.exit_code(outcomes) == code


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["right", "unchecked"], 0),
        (["right", "wrong", "right"], 1),
        (["right", "cannot"], 3),
        (["cannot", "wrong"], 1),
        ([], 1),
    ],
)
def test_one_scenario_hinders_no_other(playing: None, names: list[str], code: int) -> None:
    outcomes = list(verify.verify([made(name) for name in names]))
    assert [one.name for one in outcomes] == names
    assert verify.exit_code(outcomes) == code


def test_no_check_and_what_was_in_the_way_are_lines_of_their_own() -> None:
    unchecked = Outcome("flood", "no check", 1.0)
    assert list(verify.lines(unchecked)) == [("flood", "", "", "", "", "", "no check")]
    hindered = Outcome("loss", "cannot", 1.0, reason="no /dev/net/tun")
    assert list(verify.lines(hindered)) == [("loss", "no /dev/net/tun", "", "", "", "", "cannot")]


@pytest.mark.parametrize(
    ("check", "cells"),
    [
        (close("total", 2e6, 2.1e6, relative=0.1), ("2.00 ms", "2.10 ms", "+100 µs (+5.0%)", "10 %", "ok")),
        (close("total", 2e6, None, relative=0.1), ("2.00 ms", "–", "", "10 %", "broken")),
        (same("rows", 3, 2), ("3", "2", "-1", "exactly", "broken")),
        (same("reason", "fin", "fin"), ("fin", "fin", "", "exactly", "ok")),
        (at_least("stalls", 4, 5, "count"), ("4", "5", "+1", "at least", "ok")),
        (at_most("nagle", 4000, 5000), ("4.00 µs", "5.00 µs", "+1.00 µs (+25.0%)", "at most", "broken")),
    ],
)
def test_the_table_shows_truth_measured_error_bound_and_verdict(check: Check, cells: tuple[str, ...]) -> None:
    assert list(verify.lines(Outcome("one", "ok", 1.0, [check]))) == [("one", check.what, *cells)]


def test_slack_widens_the_absolute_part_only() -> None:
    check = close("total", 1e6, 1.15e6, relative=0.1, absolute_ns=10_000)
    assert check.verdict() == "broken" and check.verdict(slack=5) == "ok"
    assert check.bound(5) == "10 % + 50.0 µs"
    assert close("total", 1e6, 1.15e6, relative=0.1).verdict(slack=1000) == "broken"


def test_json_says_the_same(playing: None) -> None:
    (outcome,) = verify.verify([made("wrong")])
    told = json.loads(json.dumps(outcome.as_json()))
    assert (told["scenario"], told["verdict"], told["lost"]) == ("wrong", "broken", 0)
    assert [check["verdict"] for check in told["checks"]] == ["ok", "broken"]
    assert told["checks"][1]["truth"] == "fin" and told["checks"][1]["error"] is None


def test_broken_run_that_lost_records_is_repeated_once_and_says_so(
    playing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [2, 0, 3, 1]

    class Lossy:
        def __init__(self, path: Path) -> None:
            self.lost = losses.pop(0)

    verdicts = iter([2, 3, 2, 2])
    once = made("unchecked", checks=lambda truth, rows: [same("rows", 3, next(verdicts))])
    monkeypatch.setattr(verify, "Rows", Lossy)
    found, still = verify.verify([once, once])
    assert found.first and still.first
    assert (found.verdict, found.first.lost, found.lost) == ("ok", 2, 0)
    assert (still.verdict, still.first.lost, still.lost) == ("broken", 3, 1)
    assert losses == [] and verify.exit_code([still]) == 1


def test_an_emulated_machine_may_break_a_bound_once_and_says_so(
    playing: None, root: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = iter([2, 3, 2, 2, 2])
    shaky = made("shaky", checks=lambda truth, rows: [same("rows", 3, next(verdicts))])
    monkeypatch.setattr("tcptrace.lab.scenario.scenario", lambda name: shaky)
    code, out, err = run(capsys, "verify", "shaky", "--slack", "20", "--json")
    assert code == 0 and "played again, the first run broke rows" in err
    (found,) = json.loads(out)
    assert (found["verdict"], found["first_run"]) == ("ok", {"lost": 0, "broken": ["rows"]})
    assert run(capsys, "verify", "shaky", "--slack", "20")[0] == 1
    assert next(verdicts) == 2  # and once only
    with pytest.raises(StopIteration):
        next(verdicts)


def test_checks_that_miss_rows_are_a_failure_and_no_traceback(playing: None) -> None:
    (outcome,) = verify.verify([made("unchecked", checks=lambda truth, rows: [same("first", 1, [][0])])])
    assert outcome.verdict == "failed" and "IndexError" in outcome.reason
    assert verify.exit_code([outcome]) == 1


# ---- the command ----


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcptrace.acquire.preflight.require_privileges", lambda: None)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = cli.run(["lab", *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_broken_check_fails_the_command(
    playing: None, root: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scenario, "scenario", made)
    code, out, err = run(capsys, "verify", "right", "wrong")
    assert code == 1
    assert "wrong: broken" in err and "right: ok" in err
    last = out.splitlines()[-1].split()
    assert last[:2] == ["wrong", "close_reason"] and last[-1] == "broken"
    assert run(capsys, "verify", "right")[0] == 0


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["run", "no-such"], "no-such"),
        (["verify", "handshake", "no_such"], "no_such"),
        (["run", "../x"], "../x"),
        (["run", "nagle", "--role", "client"], "--peer"),
        (["run", "nagle", "--peer", "10.0.0.1"], "--role client"),
        (["run", "nagle", "--role", "server", "--peer", "10.0.0.1"], "--peer"),
        (["run", "nagle", "--role", "judge"], "judge"),
        (["verify", "--slack", "0"], "0"),
        (["verify", "--slack", "nan"], "nan"),
        (["run", "handshake", "--role", "server"], "handshake"),
    ],
)
def test_wrong_usage_is_one_line(
    root: None, capsys: pytest.CaptureFixture[str], args: list[str], named: str, tmp_path: Path
) -> None:
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert named in err.splitlines()[-1]


def test_files_that_exist_are_kept(root: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "nagle.html").write_text("precious")
    code, _, err = run(capsys, "run", "nagle", "-o", str(tmp_path))
    assert code == 1 and "nagle.html exists" in err and "--force" in err
    assert (tmp_path / "nagle.html").read_text() == "precious"


def test_the_list_has_every_scenario_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list")
    assert code == 0
    for name in scenario.names():
        assert sum(line.split()[:1] == [name] for line in out.splitlines()) == 1
    code, out, _ = run(capsys, "list", "--json")
    assert code == 0 and [one["name"] for one in json.loads(out)] == scenario.names()


@pytest.mark.parametrize(
    ("topology", "private", "why"),
    [
        (Topology(delay_ns=1000), False, ""),
        (Topology(delay_ns=1000, drops=(Drop("syn", nth=(1,)),)), False, "relay"),
        (Topology(flow_delays_ns=(1, 2)), False, "relay"),
        (Topology(relay=True), False, "relay"),
        (Topology(), True, "must not leave"),
    ],
)
def test_what_cannot_be_played_between_machines_is_refused(
    topology: Topology, private: bool, why: str
) -> None:
    assert why in play.why_not_apart(made("right", topology=topology, private=private))
    assert bool(why) == bool(play.why_not_apart(made("right", topology=topology, private=private)))


@pytest.fixture(autouse=True)
def _no_colour(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NO_COLOR", "1")
    yield
