"""Count the programs that XLA compiles, and read the loops of a compiled one."""

import contextlib
import re

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"

# XLA compiles four times as fast with these flags, and small programs run as fast.
FAST_COMPILATION = [
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
]
COLLECTIVE = r"= .* (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\("


@contextlib.contextmanager
def counting_compilations():
    """Yield a list that gets one entry for each program compiled inside the block."""
    compiled = []

    def listen(event, duration, **_):
        if event == _COMPILED:
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def computations(text):
    """Return the computations of a compiled program's HLO text: name -> lines."""
    found, name = {}, None
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = head[1]
            found[name] = []
        elif name is not None:
            found[name].append(line.strip())
    return found


def collectives(text):
    """Return the collective operations of a compiled program, by the computation that holds them."""
    by_name = {
        name: [line for line in lines if re.search(COLLECTIVE, line)] for name, lines in computations(text).items()
    }
    return {name: lines for name, lines in by_name.items() if lines}
