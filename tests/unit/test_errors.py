"""Exit codes are part of the interface."""

import pytest

from tcptrace import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TcptraceError, 1),
        (errors.UsageError, 2),
        (errors.HostError, 3),
        (errors.TraceError, 4),
    ],
)
def test_each_error_has_its_exit_code(error: type[errors.TcptraceError], code: int) -> None:
    assert error("x").exit_code == code
    assert str(error("message")) == "message"
    assert issubclass(error, errors.TcptraceError)


def test_codes_without_an_error() -> None:
    assert (errors.EXIT_OK, errors.EXIT_INCOMPLETE, errors.EXIT_OVER_BUDGET) == (0, 5, 99)
