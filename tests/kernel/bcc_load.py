"""Compiles one flattened source under BCC and passes each of its programs through the verifier.

    bcc_load.py SOURCE CFLAG...

A process of its own, because BCC is the distribution's: its folder must not reach other imports.
"""

import re
import sys
from pathlib import Path

sys.path.append("/usr/lib/python3/dist-packages")

from bcc import BPF


def main(source: str, cflags: list[str]) -> None:
    text = Path(source).read_text()
    programs = BPF(text=text, cflags=cflags)
    for event in re.findall(r"^TT_TRACEPOINT\((\w+)\)", text, re.MULTILINE):
        programs.load_func(f"raw_tracepoint__{event}", BPF.RAW_TRACEPOINT)
        print(event, flush=True)


main(sys.argv[1], sys.argv[2:])
