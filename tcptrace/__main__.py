"""`python -m tcptrace`: the command, also where another program of that name comes first in PATH."""

from tcptrace.cli import main

if __name__ == "__main__":
    main()
