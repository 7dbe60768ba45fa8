"""The script that runs in a guest, tried on this machine's shell."""

import subprocess
from pathlib import Path

from matrix import Task, marked_tests, script, tasks
from matrix_results import STEPS


def run(*steps: Task) -> list[list[str]]:
    done = subprocess.run(["sh", "-c", script(steps)], capture_output=True, text=True, timeout=60, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def test_each_step_is_told_with_its_exit_code_and_seconds() -> None:
    release, first, second = run(Task("doctor", 10, "true"), Task("tests", 10, "sh -c 'exit 3'"))
    assert release[0] == "release" and len(release) == 2
    assert (first[:2], second[:2]) == (["doctor", "0"], ["tests", "3"])
    assert 0 <= float(first[2]) < 10


def test_a_step_is_interrupted_at_its_limit_and_the_next_one_runs() -> None:
    _, slow, after = run(Task("tests", 1, "sleep 30"), Task("scenarios", 10, "true"))
    assert slow[:2] == ["tests", "124"] and after[:2] == ["scenarios", "0"]


def test_every_step_keeps_what_it_says_in_the_directory() -> None:
    for fast in (False, True):
        steps = tasks(Path("/results/6.1"), fast)
        assert tuple(step.name for step in steps) == STEPS
        assert all(f"/results/6.1/{step.name}." in step.command for step in steps)


def test_guests_run_the_files_with_marked_tests() -> None:
    assert "tests/kernel/test_lifecycle_close.py" in marked_tests()
    assert "tests/kernel/test_storm.py" not in marked_tests()
