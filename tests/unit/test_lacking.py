"""When a kernel test may skip: what may be missing is said by name, and nothing else is."""

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("lacking", Path(__file__).parents[1] / "kernel/lacking.py")
assert _spec and _spec.loader
lacking = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lacking)

GUEST = {"TCPTRACE_MAY_LACK": "fentry, tp:sk_data_ready"}


def test_on_a_host_anything_may_be_missing() -> None:
    assert lacking.why_it_fails("no kprobes", ["kprobe"], {}) is None
    assert lacking.why_it_fails("no tcpdump", [], {}) is None
    assert not lacking.is_unexpected("no tcpdump", {})


def test_where_the_kernel_is_required_nothing_may_be_missing() -> None:
    why = lacking.why_it_fails("no kprobes", ["kprobe"], {"TCPTRACE_REQUIRE_KERNEL": "1"})
    assert why == "required by TCPTRACE_REQUIRE_KERNEL=1: no kprobes"


@pytest.mark.parametrize(("missing", "fails"), [
    (["fentry"], False),
    (["fentry", "tp:sk_data_ready"], False),
    (["kprobe"], True),
    (["fentry", "kprobe"], True),
    ([], True),
])  # fmt: skip
def test_in_a_guest_only_what_is_listed_may_be_missing(missing: list[str], fails: bool) -> None:
    assert bool(lacking.why_it_fails("it is not there", missing, GUEST)) is fails


def test_what_was_not_listed_is_named() -> None:
    why = lacking.why_it_fails("it is not there", ["fentry", "kprobe"], GUEST)
    assert why == "not among TCPTRACE_MAY_LACK (kprobe): it is not there"


def test_an_empty_list_permits_nothing() -> None:
    assert lacking.why_it_fails("no kprobes", ["kprobe"], {"TCPTRACE_MAY_LACK": ""})


def test_a_skip_that_names_no_capability_is_unexpected_in_a_guest() -> None:
    assert lacking.is_unexpected("no SCTP in this kernel", GUEST)
    assert not lacking.is_unexpected(f"{lacking.PERMITTED}fentry: it is not there", GUEST)


def test_a_capability_may_be_missing_only_where_it_is_listed() -> None:
    assert lacking.may_lack("fentry", GUEST) and lacking.may_lack("tp:sk_data_ready", GUEST)
    assert not lacking.may_lack("kprobe", GUEST) and not lacking.may_lack("fentry", {})
