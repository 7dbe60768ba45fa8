"""The trace file (`.tct`): record layouts, columnar batches, writer and reader.

A trace is one Arrow IPC stream that any Arrow reader opens: a schema message with the header, batches of
rows, a zero-row trailer batch, the end-of-stream mark. `frame` has what goes beyond Arrow.
"""

FORMAT = "tcptrace"
# Raised when a reader of the old number would misread the file; wire.WIRE_VERSION covers the columns.
FORMAT_VERSION = 1
