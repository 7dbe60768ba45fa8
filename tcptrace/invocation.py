"""How this program was called: for the next command that a message tells the user to type.

The plain words `tcptrace` and `pip` would often be others: sudo has a PATH of its own, without any virtual
environment in it, and Debian ships another `tcptrace`.
"""

import os
import shlex
import sys


def command() -> str:
    """This `tcptrace` as the shell finds it, also after `sudo`."""
    called = sys.argv[0]
    if os.path.basename(called) == "tcptrace" and "/" in called:
        return shlex.quote(called)
    return f"{_python()} -m tcptrace"


def install_report() -> str:
    """What brings the packages that `tcptrace report` needs into this installation."""
    return f"{_python()} -m pip install 'tcptrace[report]'"


def _python() -> str:
    return shlex.quote(sys.executable or "python3")
