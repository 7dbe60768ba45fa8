"""The two objects of the same programs, and how one is loaded beside the other.

``lifecycle.bpf.o`` is the main one. ``plain.bpf.o`` has the same programs for kernels that refuse that one,
where it is used as a whole, and kprobes, which can also be loaded beside the main object and then work on its
state.
"""

from collections.abc import Iterable

from tcptrace import resources
from tcptrace.acquire import libbpf

MAIN, PLAIN = "lifecycle", "plain"

WHOLE_VARIANT = {"use_table": 0, "use_hash": 1, "has_cookie": 0}
"""How the plain object is configured when it is used as a whole: it has no other home for state. A socket's
cookie is recorded where the socket has one; no helper that would give it one is called."""


def beside(main: libbpf.Object, config: bytes, programs: Iterable[str]) -> libbpf.Object:
    """Loads these programs of the plain object beside a loaded main object, not attached.

    They share every map with it: rings, counters, filters and the sockets' state. `config` must be the main
    object's own, with ``use_hash`` set: what finds no room in the table is then where a kprobe can look, too,
    which socket storage is not. Raises BpfError when the kernel refuses one, and HostError when there is no
    plain object.
    """
    wanted = set(programs)
    plain = libbpf.Object(resources.bpf_object(PLAIN))
    try:
        unknown = wanted - plain.programs.keys()
        if unknown:
            raise ValueError(f"{PLAIN}.bpf.o has no program {min(unknown)}")
        plain.set_initial_value(".rodata.config", config)
        shared = set(main.map_names())
        for name in plain.map_names():
            if name in shared and "." not in name:
                plain.reuse(name, main.map(name).fd)
        for name, program in plain.programs.items():
            program.set_autoload(name in wanted)
        plain.load()
        # the others have the names of the main object's, and are not loaded
        plain.programs = {name: plain.programs[name] for name in plain.programs if name in wanted}
    except BaseException:
        plain.close()
        raise
    return plain
