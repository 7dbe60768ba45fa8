"""What guests leave behind is judged: green only when everything ran and nothing is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from matrix_kernels import MatrixError
from matrix_results import DOCTOR, SCENARIOS, TESTS, Reported, Result, Step, hooks, judge, summary
from matrix_table import BEGIN, END, rewritten, table

READY = {
    "ready": True,
    "checks": [{"name": "BTF", "ok": True, "required": True, "found": "there"}],
    "hooks": [
        {"fact": "write entered", "provider": "fentry/tcp_sendmsg_locked", "exact": True, "reason": None},
        {"fact": "data ready", "provider": None, "exact": False, "reason": "no tracepoint"},
    ],
}


def left(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(text)


def scenario(verdict: str, **more: Any) -> dict[str, Any]:
    usual = {"scenario": "nagle", "reason": None, "checks": [], "first_run": None}
    return {**usual, "verdict": verdict, **more}


def test_doctor_is_green_when_it_is_ready_and_counts_facts(tmp_path: Path) -> None:
    left(tmp_path, "doctor.json", json.dumps(READY))
    assert judge(DOCTOR, 0, 1.0, tmp_path) == Step(DOCTOR, 1.0, "1 of 2 facts")
    assert [hook["fact"] for hook in hooks(tmp_path)] == ["write entered", "data ready"]


def test_a_doctor_that_is_not_ready_says_which_check_failed(tmp_path: Path) -> None:
    wrong = {**READY, "ready": False, "checks": [{**READY["checks"][0], "ok": False, "found": "none"}]}  # type: ignore[index, dict-item]
    left(tmp_path, "doctor.json", json.dumps(wrong))
    assert judge(DOCTOR, 3, 1.0, tmp_path).problems == ("BTF: none",)


def test_tests_are_counted_and_failures_named(tmp_path: Path) -> None:
    left(
        tmp_path,
        "tests.xml",
        '<testsuites><testsuite><testcase classname="t" name="a"/><testcase classname="t" name="b">'
        '<failure message="off by one&#10;more"/></testcase><testcase classname="t" name="c"><skipped/>'
        "</testcase></testsuite></testsuites>",
    )
    step = judge(TESTS, 1, 1.0, tmp_path)
    assert (step.words, step.problems) == ("1 ok, 1 skipped, 1 failed", ("t.b: off by one",))


def test_no_test_at_all_is_not_green(tmp_path: Path) -> None:
    left(tmp_path, "tests.xml", "<testsuites><testsuite/></testsuites>")
    assert judge(TESTS, 5, 1.0, tmp_path).problems


@pytest.mark.parametrize("verdict", ["broken", "failed", "cannot", "no check"])
def test_a_scenario_that_is_not_ok_is_a_problem(tmp_path: Path, verdict: str) -> None:
    check = {"what": "total", "unit": "ns", "truth": 5, "measured": 9, "bound": "2 %", "verdict": "broken"}
    checks = [check, {**check, "what": "rows", "verdict": "ok"}]
    outcomes = [scenario("ok"), scenario(verdict, checks=checks)]
    left(tmp_path, "scenarios.json", json.dumps(outcomes))
    step = judge(SCENARIOS, 1, 1.0, tmp_path)
    assert (step.words, step.problems) == (
        "1 ok, 1 not",
        (f"nagle: {verdict}: total: 9 of 5 ns, allowed 2 %",),
    )


def test_scenarios_that_were_played_twice_are_counted(tmp_path: Path) -> None:
    again = {"lost": 0, "broken": ["total"]}
    outcomes = [scenario("ok"), scenario("ok", first_run=again), scenario("broken", first_run=again)]
    left(tmp_path, "scenarios.json", json.dumps(outcomes))
    assert judge(SCENARIOS, 1, 1.0, tmp_path).words == "2 ok (1 played twice), 1 not"


def test_an_exit_code_that_nothing_explains_is_a_problem(tmp_path: Path) -> None:
    left(tmp_path, "scenarios.json", json.dumps([scenario("ok")]))
    left(tmp_path, "scenarios.log", "the last words\n")
    assert judge(SCENARIOS, 1, 1.0, tmp_path).problems == ("exit code 1", "  the last words")


@pytest.mark.parametrize("text", [None, "", "{", "[]"])
def test_a_step_without_a_result_is_a_problem(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        left(tmp_path, "doctor.json", text)
    step = judge(DOCTOR, 1, 1.0, tmp_path)
    assert step.words == "no result" and "exit code 1" in step.problems[0]
    assert hooks(tmp_path) == ()


@pytest.mark.parametrize("code", [124, 137])
def test_a_step_out_of_time_is_a_problem_whatever_it_left(tmp_path: Path, code: int) -> None:
    left(tmp_path, "doctor.json", json.dumps(READY))
    assert judge(DOCTOR, code, 180.0, tmp_path).words == "out of time"


def test_lines_of_a_guest_tell_its_release_and_steps(tmp_path: Path) -> None:
    left(tmp_path, "doctor.json", json.dumps(READY))
    reported = Reported()
    told = [reported.take(line, tmp_path) for line in ("release 6.1.0-56", "else", "doctor 0 12.5", "x 1 2")]
    assert reported.release == "6.1.0-56"
    assert told == [None, None, Step(DOCTOR, 12.5, "1 of 2 facts"), None]
    assert reported.steps == [told[2]]


def result(kernel: str, release: str, **more: Any) -> Result:
    steps = tuple(Step(name, 1.0, "fine") for name in (DOCTOR, TESTS, SCENARIOS))
    return Result(kernel, release, 90.0, **{"steps": steps, "hooks": tuple(READY["hooks"]), **more})  # type: ignore[arg-type]


def test_a_kernel_is_green_only_with_every_step_and_no_problem() -> None:
    assert result("6.1", "6.1.0").green
    assert not result("6.1", "6.1.0", steps=result("6.1", "6.1.0").steps[:2]).green
    assert not result("6.1", "6.1.0", problem="guest: did not boot").green
    assert not result("6.1", "6.1.0", steps=(Step(TESTS, 1.0, "1 failed", ("t",)),)).green


def test_the_summary_has_a_line_and_a_verdict_for_each_kernel() -> None:
    lines = summary([result("6.1", "6.1.0-56"), Result("newest", problem="guest: did not boot")])
    assert lines[1].split() == ["6.1", "6.1.0-56", "fine", "fine", "fine", "1.5", "min", "ok"]
    assert lines[2].split() == ["newest", "-", "-", "-", "-", "0.0", "min", "FAILED"]


def test_the_support_table_names_providers_and_marks_estimates() -> None:
    newer = (
        {"fact": "write entered", "provider": "tp_btf/tcp_sendmsg_locked", "exact": True, "reason": None},
        {"fact": "data ready", "provider": "tp_btf/sk_data_ready", "exact": False, "reason": None},
        {"fact": "more", "provider": "iter/tcp", "exact": True, "reason": None},
    )
    both = [result("6.1", "6.1.0-56-cloud-amd64"), result("newest", "7.3.4+deb13-cloud-amd64", hooks=newer)]
    assert table(both).splitlines() == [
        "| fact | Linux 6.1.0 | Linux 7.3.4 |",
        "| --- | --- | --- |",
        "| write entered | `fentry/tcp_sendmsg_locked` | `tp_btf/tcp_sendmsg_locked` |",
        "| data ready | – | `tp_btf/sk_data_ready` (estimated) |",
        "| more | – | `iter/tcp` |",
    ]


def test_the_table_replaces_what_is_between_the_markers_and_nothing_else() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert rewritten(text, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert rewritten(rewritten(text, "new"), "new") == rewritten(text, "new")


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_document_without_its_markers_is_left_alone(text: str) -> None:
    with pytest.raises(MatrixError, match="support table"):
        rewritten(text, "new")


def test_the_readme_has_the_markers() -> None:
    rewritten(Path(__file__).parents[2].joinpath("README.md").read_text(), "new")


def test_a_provider_may_be_missing_only_for_want_of_what_the_kernel_may_lack(tmp_path: Path) -> None:
    gone = {"provider": "fentry/f", "used": False, "exact": True, "capability": "fentry", "reason": "refused"}
    hook = {**READY["hooks"][0], "providers": [gone, {**gone, "reason": None}]}  # type: ignore[index, dict-item]
    left(tmp_path, "doctor.json", json.dumps({**READY, "hooks": [hook]}))
    assert judge(DOCTOR, 0, 1.0, tmp_path, ["fentry"]).problems == ()
    (problem,) = judge(DOCTOR, 0, 1.0, tmp_path, ["kprobe"]).problems
    assert problem == "write entered: no fentry/f: refused (fentry is not in may_lack)"
