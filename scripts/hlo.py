"""Read the text of a compiled program: its loops, and what an iteration of them launches."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = "all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast"
# These launch nothing: they name a value.
_NO_KERNELS = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
)  # fmt: skip
_CALLS = "while", "conditional", "call"
_NO_KERNEL_TARGETS = "AllocateBuffer", "ConcatBitcast"


class Operation(NamedTuple):
    """An operation of a program: its opcode, without "-start", and its line."""

    opcode: str
    line: str


def computations(text: str) -> dict[str, list[Operation]]:
    """Return the operations of every computation of a compiled program, by name; "ENTRY" is the program itself."""
    found: dict[str, list[Operation]] = {}
    operations: list[Operation] = []
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            operations = found.setdefault("ENTRY" if head[1] else head[2], [])
        elif operation := re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = .*? ([a-z][a-z\-]*?)(?:-start)?\(", line):
            operations.append(Operation(operation[1], line.strip()))
    return found


def called(program: dict[str, list[Operation]], operation: Operation) -> list[str]:
    """Return the computations that an operation calls: a loop's body, the branches of a conditional, a fusion's."""
    branches = re.findall(r"computations=\{([^}]*)\}", operation.line)
    names = re.findall(r"(?:calls|to_apply|body|condition|computation)=%?([\w.\-]+)", operation.line)
    names += re.findall(r"[\w.\-]+", " ".join(branches))
    return [name for name in dict.fromkeys(names) if name in program]


def inside(program: dict[str, list[Operation]], name: str) -> Iterator[Operation]:
    """Yield the operations of a computation and of all that it calls."""
    for operation in program[name]:
        yield operation
        for other in called(program, operation):
            yield from inside(program, other)


def loop_bodies(program: dict[str, list[Operation]], name: str = "ENTRY") -> list[str]:
    """Return the bodies of the loops in a computation, without those that are inside other loops."""
    bodies = [re.search(r"body=%?([\w.\-]+)", o.line) for o in program[name] if o.opcode == "while"]
    return [body[1] for body in bodies if body]


def kernels(program: dict[str, list[Operation]], name: str) -> int:
    """Return how many kernels a computation launches: fusions, library calls, copies and collectives.

    A loop counts as often as it runs, as far as its text says, and of a conditional the larger branch counts. The
    arithmetic of single numbers, which a TPU does on its scalar core, does not count.
    """
    count = 0
    for operation in program[name]:
        if operation.opcode in _CALLS:
            inner = (kernels(program, other) for other in called(program, operation))
            count += _trip_count(operation) * max(inner, default=0)
        else:
            count += _is_kernel(operation)
    return count


def bytes_moved(program: dict[str, list[Operation]], name: str) -> int:
    """Return how many bytes the kernels of a computation read from main memory and write to it.

    A fusion that slices or gathers reads no more of an operand than it produces inside. What a TPU keeps in its on-chip
    memory does not count. Loops count as for `kernels`.
    """
    total, sizes = 0, {}
    for operation in program[name]:
        target, _, value = operation.line.removeprefix("ROOT ").partition(" = ")
        result, _, rest = value.partition(f" {operation.opcode}")
        sizes[target] = _size(result)
        others = called(program, operation)
        if operation.opcode in _CALLS:
            total += _trip_count(operation) * max((bytes_moved(program, other) for other in others), default=0)
        elif _is_kernel(operation):
            operands = [sizes.get(operand, 0) for operand in re.findall(r"%[\w.\-]+", rest.partition("),")[0])]
            parts = [part for other in others for part in inside(program, other) if part.opcode != "parameter"]
            if any(part.opcode in ("gather", "slice", "dynamic-slice") for part in parts):
                shapes = (part.line.partition(" = ")[2].partition(f" {part.opcode}")[0] for part in parts)
                most = max(map(_size, shapes))
                operands = [min(operand, most) for operand in operands]
            total += sizes[target] + sum(operands)
    return total


def _trip_count(operation: Operation) -> int:
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', operation.line)
    return int(trips[1]) if trips else 1


def _size(shapes: str) -> int:
    """Return the bytes of the arrays in main memory in a text such as "(f32[256,30], pred[256]{0:T(512)S(1)})"."""
    arrays = re.findall(r"\b[a-z]+(\d*)\[([\d,]*)\](\{[^}]*\})?", shapes)
    sizes = [int(bits or 8) * math.prod(int(side) for side in sides.split(",") if side)
             for bits, sides, layout in arrays if not re.search(r"S\([1-9]", layout)]  # fmt: skip
    return sum(sizes) // 8


def _is_kernel(operation: Operation) -> bool:
    if operation.opcode in (*_NO_KERNELS, *_CALLS) or operation.opcode.endswith("-done"):
        return False
    if any(f'custom_call_target="{target}"' in operation.line for target in _NO_KERNEL_TARGETS):
        return False
    is_scalar = re.search(r" = \w+\[\]", operation.line)
    return not is_scalar or operation.opcode in ("fusion", "custom-call", *COLLECTIVES)


def collectives(program: dict[str, list[Operation]], name: str) -> list[Operation]:
    """Return the collectives of a computation and of all that it calls."""
    return [operation for operation in inside(program, name) if operation.opcode in COLLECTIVES]


def transfers(program: dict[str, list[Operation]], name: str) -> list[Operation]:
    """Return the operations of a computation, and of all that it calls, that exchange data with the host."""
    opcodes = "infeed", "outfeed", "send", "recv"
    callback = r'custom_call_target="[^"]*callback'  # as a GPU calls the host
    return [o for o in inside(program, name) if o.opcode in opcodes or re.search(callback, o.line)]
