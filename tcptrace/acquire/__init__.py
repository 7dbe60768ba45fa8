"""Everything that touches the kernel: what it can do, the programs, their ring buffers, the recording."""
