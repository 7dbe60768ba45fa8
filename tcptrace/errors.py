"""Errors that end a command, and its exit codes.

    TcptraceError     1  anything that failed; str(error) is the one line that the user sees
      UsageError      2  a value on the command line is wrong
      HostError       3  this host cannot: not root, no BTF, no libbpf 1.x, headers missing
      TraceError      4  a trace that cannot be read

tcptrace/cli/__init__.py turns them into a message and an exit code. A message says what is missing, what
that prevents and, where there is one, the next command to type.
"""

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_HOST = 3
EXIT_TRACE = 4
EXIT_INCOMPLETE = 5
"""Good rows were delivered, but some were lost in recording, or the file is cut or damaged later on."""
EXIT_OVER_BUDGET = 99


class TcptraceError(Exception):
    """A failure with a message for the user."""

    exit_code = EXIT_FAILURE


class UsageError(TcptraceError):
    """A value that the user gave cannot be right."""

    exit_code = EXIT_USAGE


class HostError(TcptraceError):
    """This host cannot do what was asked for."""

    exit_code = EXIT_HOST


class TraceError(TcptraceError):
    """A trace is foreign, newer than this version, empty, or damaged before its first complete batch."""

    exit_code = EXIT_TRACE
