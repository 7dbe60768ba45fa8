"""Each scenario is a whole lesson under one name, and what is none says so in one line."""

from __future__ import annotations

import pkgutil
import re
import types
from pathlib import Path

import pytest

import tcptrace.lab.scenarios as package
from tcptrace import cli
from tcptrace.errors import UsageError
from tcptrace.lab import play, scenario
from tcptrace.lab.faults import Drop, Late
from tcptrace.lab.scenario import CONTROL_PORT, FIRST_PORT, Scenario, Topology

MODULES = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
EVERY = pytest.mark.parametrize("one", scenario.scenarios(), ids=lambda one: one.name)
MS = 1_000_000


def test_every_module_is_a_scenario_of_its_name() -> None:
    assert sorted(scenario.names()) == sorted(module.replace("_", "-") for module in MODULES)
    for module in MODULES:
        name = module.replace("_", "-")
        assert scenario.scenario(name).name == name


def test_the_list_goes_by_chapters() -> None:
    chapters = [one.chapter for one in scenario.scenarios()]
    assert len(set(chapters)) == sum(
        chapter != before for chapter, before in zip(chapters, [None, *chapters], strict=False)
    )


@EVERY
def test_it_says_what_it_teaches(one: Scenario) -> None:
    assert 100 <= len(one.teaches) <= 600, "a few sentences"
    assert one.teaches.endswith(".")
    assert not re.search(r"  |[,;][A-Za-z]|[a-z]\.[A-Z]", one.teaches), "joined lines want one space"
    assert 10 <= len(one.title) <= 100 and not one.title.endswith(".")
    assert one.title not in {other.title for other in scenario.scenarios() if other is not one}


@EVERY
def test_its_ports_are_the_labs_and_sysctls_are_of_a_part(one: Scenario) -> None:
    assert CONTROL_PORT < FIRST_PORT and 1 <= one.ports <= 99
    assert set(one.sysctls) <= {"client", "server"}
    for changes in one.sysctls.values():
        assert all(name.startswith("net.") for name in changes), "what a namespace has of its own"


@EVERY
def test_one_that_cannot_be_played_between_machines_says_why(one: Scenario) -> None:
    assert bool(play.why_not_apart(one)) == (one.private or one.topology.scripted)


@pytest.mark.parametrize(
    "name",
    ["", "no-such", "syn_loss", "Nagle", "../nagle", "__init__", "nagle.py", "nagle ", "\x1b[31m", "os"],
)
def test_an_unknown_name_is_one_clear_line(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="`tcptrace lab list` names them") as caught:
        scenario.scenario(name)
    assert repr(name) in str(caught.value)
    assert cli.run(["lab", "verify", name]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.splitlines()[-1] == f"tcptrace: {caught.value}"


@pytest.mark.parametrize("wrong", ["a-name-of-another", "scenario_of_another"])
def test_a_module_that_calls_itself_otherwise_is_found_out(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor = types.SimpleNamespace(SCENARIO=scenario.scenario("nagle"))
    monkeypatch.setattr(scenario.importlib, "import_module", lambda name: impostor)
    with pytest.raises(AssertionError, match="calls itself nagle"):
        scenario._load(wrong)


@pytest.mark.parametrize(
    ("topology", "words"),
    [
        (Topology(), "no delay"),
        (Topology(delay_ns=5 * MS), "5.00 ms each way"),
        (Topology(flow_delays_ns=(50 * MS, MS, MS)), "1.00 ms or 50.0 ms each way"),
        (Topology(drops=(Drop("syn", nth=(1, 2)),)), "no delay; lost: syn 1, 2"),
        (Topology(drops=(Drop("synack"),)), "no delay; lost: synack all"),
        (Topology(delay_ns=MS, drops=(Drop("fin", name="its FIN"),)), "1.00 ms each way; lost: its FIN"),
        (Topology(lates=(Late("data", nth=(2,), by_ns=MS),)), "no delay; overtaken: data 2"),
    ],
)
def test_what_lies_between_is_said_in_words(topology: Topology, words: str) -> None:
    assert topology.words() == words


def test_only_a_plain_delay_can_lie_between_machines() -> None:
    assert not Topology(delay_ns=MS).scripted
    assert Topology(relay=True).scripted
    assert Topology(drops=(Drop("syn"),)).scripted and Topology(flow_delays_ns=(MS,)).scripted


def test_scenarios_are_documents_and_code_in_one_place() -> None:
    """Small modules: a reader sees the whole lesson on a few screens."""
    for module in MODULES:
        lines = Path(package.__path__[0], f"{module}.py").read_text().splitlines()
        assert lines[0].startswith('"""') and len(lines) <= 300, module
