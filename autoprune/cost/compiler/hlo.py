"""Reads the text of a module that the TPU compiler has optimised and scheduled.

The compiler writes its own estimate of each kernel, in cycles, into the instruction's `backend_config`. Copies
between HBM and on-chip memory that run beside the kernels carry none: the plain sum misses the time spent waiting
for them, the schedule walk adds it.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from autoprune.records import Memory

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r"(?:body|to_apply|calls|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)")
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([\d,]*)(?::((?:T\([\d,]+\))?(?:\([\d,]+\))*)[^}]*)?\})?")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_ON_CHIP = re.compile(r"S\([1-9]\d*\)")
_MOVES_NOTHING = frozenset({"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"})
_COLLECTIVES = frozenset({"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"})
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0}


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One scheduled instruction."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def cycles(self) -> int:
        """The compiler's estimate; 0 where it gives none."""
        match = _CYCLES.search(self.attributes)
        return int(match[1]) if match else 0


@dataclass(frozen=True)
class Module:
    """A compiled module: instructions of every computation, and the shapes of the entry's parameters."""

    computations: dict[str, list[Instruction]]
    entry: str
    parameters: tuple[str, ...]


def parse_module(text: str) -> Module:
    """Read the text that `Compiled.as_text()` gives.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            # `[ROOT] %name = shape opcode(operands), attributes`.
            left, right = line.strip().removeprefix("ROOT ").split(" = ", 1)
            end = _find_closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
            shape, rest = right[:end], right[end:].lstrip()
            opening = rest.index("(")
            closing = _find_closing(rest, opening)
            operands = tuple(re.findall(r"%([\w.\-]+)", rest[opening + 1 : closing]))
            current.append(
                Instruction(
                    name=left.lstrip("%"),
                    shape=shape,
                    opcode=rest[:opening],
                    operands=operands,
                    attributes=rest[closing + 1 :],
                )
            )
    if not entry:
        raise ValueError("the module has no entry computation")
    layout = re.search(r"entry_computation_layout=\{\((.*?)\)->", text)
    return Module(computations, entry, tuple(_split_shapes(layout[1])) if layout else ())


def _find_closing(text: str, opening: int) -> int:
    """Index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for index in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"unbalanced parentheses in: {text[:120]}")


def _split_shapes(shapes: str) -> Iterator[str]:
    """Shapes of a parameter list, split at the commas outside brackets."""
    shapes = re.sub(r"/\*.*?\*/", "", shapes)
    depth, start = 0, 0
    for index, character in enumerate(shapes):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield shapes[start:index].strip()
            start = index + 1
    if shapes[start:].strip():
        yield shapes[start:].strip()


def bytes_with_padding(shape: str, *, on_chip: bool = True) -> int:
    """Bytes that an array, or a tuple of arrays, takes when its tiles are filled up.

    Args:
        shape: what the compiler prints of it.
        on_chip: whether arrays whose layout places them in memory on the chip count.

    >>> bytes_with_padding("bf16[3,3,64,100]{3,2,1,0:T(8,128)(2,1)}")  # 100 lanes are padded to 128
    147456
    """
    total = 0
    for match in _ARRAY.finditer(shape):
        if not on_chip and _ON_CHIP.search(match[0]):
            continue
        dtype, dims, order, tiles = match.groups()
        sizes = [int(size) for size in dims.split(",") if size]
        if order:
            # Major to minor, as the tiles count.
            sizes = [sizes[int(axis)] for axis in reversed(order.split(","))]
        tile = re.match(r"T\(([\d,]+)\)", tiles or "")
        if tile:
            lengths = [int(length) for length in tile[1].split(",")]
            sizes = [1] * (len(lengths) - len(sizes)) + sizes
            for axis, length in enumerate(reversed(lengths), start=1):
                sizes[-axis] = math.ceil(sizes[-axis] / length) * length
        bits = _BITS[dtype] if dtype in _BITS else int(re.sub(r"\D", "", dtype) or 32)
        total += math.prod(sizes) * bits // 8
    return total


def memory_of(analysis: Any, module: Module, inputs: int) -> Memory:
    """What a program needs on its device, from the compiler's analysis, as for a program that is only compiled.

    Args:
        analysis: `memory_analysis` of an executable.
        module: its text, parsed; its last parameters are the inputs.
        inputs: how many these are.
    """
    entering = sum(bytes_with_padding(shape) for shape in module.parameters[-inputs:])
    weights = analysis.argument_size_in_bytes - entering
    activations = entering + analysis.output_size_in_bytes - analysis.alias_size_in_bytes + analysis.temp_size_in_bytes
    code = analysis.generated_code_size_in_bytes
    return Memory(weights, activations, code, weights + activations + code)


def total_cycles(module: Module) -> int:
    """Plain sum of the kernels' estimates, loops counted as often as they run."""
    return _sum_of_runs(module, lambda instruction: instruction.cycles)


def walk_schedule(module: Module, clock: float, bandwidth: float) -> list[tuple[Instruction, float]]:
    """The instructions of the entry computation in order, each with the seconds by which it delays the end.

    Copies share one engine of the given bandwidth and run beside the kernels; a kernel sequence waits where the
    program says `-done`. The sum of all delays is the latency.

    Args:
        module: from `parse_module`.
        clock: cycles per second.
        bandwidth: bytes per second of the copies.
    """
    moved = _copy_bytes(module)

    def visit(computation: str, now: float, engine: float) -> tuple[float, float, list[tuple[Instruction, float]]]:
        ready: dict[str, float] = {}
        steps = []
        for instruction in module.computations[computation]:
            before = now
            if instruction.opcode.endswith("-start"):
                engine = max(engine, now) + moved.get(instruction.name, 0) / bandwidth
                ready[instruction.name] = engine
            elif instruction.opcode.endswith("-done"):
                now = max(now, ready.get(instruction.operands[0], now)) if instruction.operands else now
            else:
                now += instruction.cycles / clock
                inner = [visit(name, now, engine)[:2] for name in _control_flow(instruction)]
                if inner:
                    end, engine_end = max(inner)
                    now += _trips(instruction) * (end - now)
                    engine = max(engine, engine_end)
            steps.append((instruction, now - before))
        return now, engine, steps

    return visit(module.entry, 0.0, 0.0)[2]


def hbm_traffic(module: Module) -> int:
    """Bytes that the program reads from and writes to HBM: operands and results that do not lie on the chip.

    A kernel that reads only part of an operand is counted with the whole; loops are counted as often as they run.
    """
    moved = _copy_bytes(module)

    def visit(computation: str) -> int:
        instructions = module.computations[computation]
        sizes = {instruction.name: bytes_with_padding(instruction.shape, on_chip=False) for instruction in instructions}
        starts = {instruction.name for instruction in instructions if instruction.opcode.endswith("-start")}
        total = 0
        for instruction in instructions:
            if instruction.opcode in _MOVES_NOTHING or instruction.opcode.endswith("-done"):
                continue
            inner = [visit(name) for name in _control_flow(instruction)]
            if inner:
                total += _trips(instruction) * max(inner)
            elif instruction.opcode.endswith("-start"):
                # One end of a copy is on the chip.
                total += moved.get(instruction.name, 0)
            else:
                read = sum(sizes.get(name, 0) for name in set(instruction.operands) - starts)
                total += sizes[instruction.name] + read
        return total

    return visit(module.entry)


def collective_bytes(module: Module) -> int:
    """Bytes that come back to one device from operations over all devices, such as the sum of gradients.

    Loops are counted as often as they run. The compiler estimates no cycles for these instructions.
    """
    return _sum_of_runs(module, lambda one: bytes_with_padding(one.shape) if one.opcode in _COLLECTIVES else 0)


def _sum_of_runs(module: Module, amount: Callable[[Instruction], int]) -> int:
    """An amount of each instruction, as often as it runs; of the branches of a condition the largest sum."""

    def visit(computation: str) -> int:
        total = 0
        for instruction in module.computations[computation]:
            inner = [visit(name) for name in _control_flow(instruction)]
            total += amount(instruction) + _trips(instruction) * max(inner, default=0)
        return total

    return visit(module.entry)


def _copy_bytes(module: Module) -> dict[str, int]:
    """What each asynchronous copy moves, by the name of its start: the shape of its `-done` tells."""
    return {
        instruction.operands[0]: bytes_with_padding(instruction.shape)
        for instructions in module.computations.values()
        for instruction in instructions
        if instruction.opcode.endswith("-done") and instruction.operands
    }


def kernel_layers(module: Module, instruction: Instruction) -> list[str]:
    """What a kernel computes: the scopes of the operations in it, such as `block1/conv`, its own first.

    Scopes are the paths that JAX writes into `op_name`; here without the name of the traced function and that of
    the operation itself.
    """
    inside = [instruction]
    if instruction.opcode == "fusion":
        for match in _CALLED.findall(instruction.attributes):
            for name in match.split(", "):
                inside += module.computations.get(name.lstrip("%"), [])
    names = (_OP_NAME.search(i.attributes) for i in inside)
    scopes = ("/".join(match[1].split("/")[1:-1]) for match in names if match)
    return list(dict.fromkeys(scope for scope in scopes if scope))


def _control_flow(instruction: Instruction) -> list[str]:
    """Computations that an instruction runs as instructions of their own; a fusion's body is inside its estimate."""
    if instruction.opcode not in ("while", "call", "conditional"):
        return []
    return [name.lstrip("%") for match in _CALLED.findall(instruction.attributes) for name in match.split(", ") if name]


def _trips(instruction: Instruction) -> int:
    match = _TRIPS.search(instruction.attributes)
    return int(match[1]) if match else 1
