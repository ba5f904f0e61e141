"""A pickle machine that only gathers data.

Python's own unpickler imports and calls whatever a file names. This one knows a short list of names; it
calls none of them, and hands back plain data: numbers, strings, bytes, lists, tuples, dicts and sets, and a
`Record` for each object the file would have made. Everything else in a file is an error.

A crafted file can exhaust nothing: sizes are checked against what the file holds before anything is
allocated, operations are counted, dict keys are scalars (whose hashing costs nothing), and nothing here or in
the readers follows a file's objects without a limit of depth.
"""

import struct
from collections.abc import Callable, Collection, Hashable
from typing import Any

MAX_OPERATIONS = 1_000_000  # a 1024 px training snapshot (G, D and G_ema) has about 60,000
MAX_MARKS = 256
MAX_NAME = 256
MAX_INTEGER_BYTES = 256
SMALL = 4096  # bytes up to this size are copied, longer ones stay views of the file

# Names whose objects are plain Python containers here. EasyDict is a dict with attribute access.
DICTS = {"builtins.dict", "collections.OrderedDict", "dnnlib.EasyDict", "dnnlib.util.EasyDict"}
SETS = {"builtins.set", "builtins.frozenset"}
BYTES = {"_codecs.encode", "builtins.bytes", "builtins.bytearray"}
# Modules that were renamed between versions of Python and numpy.
RENAMED = {"__builtin__": "builtins", "numpy._core": "numpy.core"}


class CheckpointError(ValueError):
    """A file that is not a checkpoint we read, or is damaged, or asks for what no checkpoint needs."""


class Name:
    """A class or function that a file names, and that stays a name."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name


class Record:
    """An object that a file asks to be made: `name` called with `args`, then given `state`."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...]):
        self.name, self.args = name, args
        self.state: Value = None


Value = Any  # None, bool, int, float, str, bytes, memoryview, list, tuple, dict, set, Name or Record
PERSISTENT = "persistent id"  # the name of the records that stand for a pickle's references to its container


def load(
    data: memoryview,
    allowed: Collection[str],
    start: int = 0,
    references: list[Record] | None = None,
    operations: int = MAX_OPERATIONS,
) -> tuple[Value, int]:
    """Read one pickle (protocol 2 to 5) from `data[start:]`.

    Args:
        data: the file's bytes; the result may hold views of it.
        allowed: names that may become records, besides the containers of this module.
        start: where the pickle begins.
        references: gets the records of the pickle's references to its container, in order.
        operations: how many there may be.

    Returns:
        The value, and where the pickle ended.

    Raises:
        CheckpointError: the pickle is damaged, too large, or names something else.
    """
    machine = _Machine(data, allowed, start, [] if references is None else references)
    try:
        return machine.run(operations)
    except CheckpointError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"damaged pickle (at byte {machine.position} of {len(data)}); get it again"
        ) from error


def describe(value: Value) -> str:
    """What kind of thing a value is, for an error message; never long, whatever the file holds."""
    if isinstance(value, (Name, Record)):
        return value.name
    return f"{value!r:.40}" if isinstance(value, (bool, float, type(None))) else type(value).__name__


def printable(name: str) -> str:
    """A name from a file as it may stand in a message: one line, and not long."""
    return ascii(name)[1:-1][:80]


class _Machine:
    """The stack machine of Python's `pickletools`, with the operations that protocols 2 to 5 write."""

    def __init__(self, data: memoryview, allowed: Collection[str], start: int, references: list[Record]):
        self.data, self.allowed, self.position, self.references = data, allowed, start, references
        self.items_left = MAX_OPERATIONS
        self.bytes_left = len(data)  # what `_codecs.encode` may make; views cost nothing
        self.stack: list[Value] = []
        self.marks: list[list[Value]] = []  # the stacks below each open mark
        self.memo: dict[int, Value] = {}

    def run(self, operations: int) -> tuple[Value, int]:
        if self.data[self.position] != 0x80 or not 2 <= self.data[self.position + 1] <= 5:
            raise CheckpointError("not a pickle of protocol 2 to 5")
        self.position += 2
        for _ in range(operations):
            code = self.data[self.position]
            self.position += 1
            if code == STOP:
                return self.stack.pop(), self.position
            operation = OPERATIONS.get(code)
            if operation is None:
                at = self.position - 1
                raise CheckpointError(f"pickle operation {code:#04x} at byte {at}; not read here")
            operation(self)
        raise CheckpointError(f"more than {operations:,} pickle operations; no checkpoint needs so many")

    def charge(self, items: int) -> None:
        """Count what is copied: a list may be named, and so copied, many times."""
        self.items_left -= items
        if self.items_left < 0:
            raise CheckpointError(f"more than {MAX_OPERATIONS:,} items in lists that are copied; refused")

    # ---- reading

    def take(self, size: int) -> memoryview:
        end = self.position + size
        if size < 0 or end > len(self.data):
            raise CheckpointError(
                f"ends early: {size:,} bytes asked for at byte {self.position}; get it again"
            )
        part = self.data[self.position : end]
        self.position = end
        return part

    def number(self, layout: struct.Struct) -> Any:
        (value,) = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return value

    def line(self) -> str:
        start = self.position
        text, newline, _ = bytes(self.data[start : start + MAX_NAME + 1]).partition(b"\n")
        if not newline:
            raise CheckpointError(f"a name longer than {MAX_NAME} characters")
        self.position += len(text) + 1
        return text.decode()

    # ---- the stack

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def push_text(self, layout: struct.Struct) -> None:
        # Surrogates as Python's pickler writes them; they can only end in a name that fits nothing.
        self.stack.append(str(self.take(self.number(layout)), "utf-8", "surrogatepass"))

    def push_bytes(self, layout: struct.Struct) -> None:
        part = self.take(self.number(layout))
        self.stack.append(bytes(part) if len(part) <= SMALL else part)

    def push_python2_string(self, layout: struct.Struct) -> None:
        part = self.take(self.number(layout))
        self.stack.append(str(part, "latin-1") if len(part) <= SMALL else part)

    def push_integer(self, layout: struct.Struct) -> None:
        size = self.number(layout)
        if not 0 <= size <= MAX_INTEGER_BYTES:
            raise CheckpointError(f"an integer of {size:,} bytes")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def push_tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError
        values = tuple(self.stack[len(self.stack) - size :])
        del self.stack[len(self.stack) - size :]
        self.stack.append(values)

    def mark(self) -> None:
        if len(self.marks) >= MAX_MARKS:
            raise CheckpointError(f"nested more than {MAX_MARKS} deep")
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Value]:
        values, self.stack = self.stack, self.marks.pop()
        return values

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    # ---- containers

    def extend(self, values: list[Value]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError
        target.extend(values)

    def set_items(self, values: list[Value]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise TypeError
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_key(key)] = value

    def add_items(self, values: list[Value]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise TypeError
        target.update(map(_key, values))

    # ---- objects

    def push_name(self, module: str, name: str) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError
        for old, new in RENAMED.items():
            if module == old or module.startswith(f"{old}."):
                module = new + module[len(old) :]
        full = f"{module}.{name}"
        if full not in self.allowed and full not in DICTS | SETS | BYTES:
            raise CheckpointError(
                f"asks for {full!a:.100}, which no generator needs; it was not run, and the file is refused"
            )
        self.stack.append(Name(full))

    def make(self) -> None:
        """REDUCE and NEWOBJ: call a name with a tuple. Here the call is only written down."""
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or not isinstance(args, tuple):
            raise TypeError
        name = function.name
        if name in DICTS:
            pairs = args[0] if args else []
            if not isinstance(pairs, list):
                raise TypeError
            self.charge(len(pairs))
            self.stack.append({_key(key): value for key, value in pairs})
        elif name in SETS:
            items = args[0] if args else []
            if not isinstance(items, list):
                raise TypeError
            self.charge(len(items))
            self.stack.append(set(map(_key, items)))
        elif name in BYTES:
            self.stack.append(self.encode(*args))
        else:
            self.stack.append(Record(name, args))

    def encode(self, value: Value = b"", encoding: str = "latin-1") -> bytes | memoryview:
        """bytes(b), bytearray(b), or the text that protocol 2 stores bytes as."""
        if isinstance(value, (bytes, memoryview)):
            return value
        if not isinstance(value, str) or encoding not in ("latin1", "latin-1"):
            raise TypeError
        self.bytes_left -= len(value)
        if self.bytes_left < 0:
            raise CheckpointError("unfolds to more bytes than the file has")
        return value.encode("latin-1")

    def refer(self) -> None:
        self.references.append(Record(PERSISTENT, (self.stack.pop(),)))
        self.stack.append(self.references[-1])

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(
            target, dict
        ):  # a dict's attributes, such as a state_dict's _metadata, are not used
            raise TypeError


def _key(key: Value) -> Hashable:
    """`key`, if it is a scalar: tuples of tuples can take for ever to hash, and large integers to collide.

    A class (Lightning's callbacks have those as keys) is its name.
    """
    if key is None or isinstance(key, (str, bytes, bool, float)):
        return key
    if isinstance(key, Name):
        return key.name
    if isinstance(key, int) and abs(key) < 2**63:
        return key
    raise CheckpointError(f"a dict's key is a {type(key).__name__}; a string or a number was expected")


def _push(value: Callable[[], Value]) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(value())


# How numbers are written, little-endian (but for floats).
U1, U2, U4, U8 = (struct.Struct(f"<{letter}") for letter in "BHIQ")
I4, F8 = struct.Struct("<i"), struct.Struct(">d")
STOP = ord(".")
# Names as in Python's pickletools.
OPERATIONS: dict[int, Callable[[_Machine], object]] = {
    ord("("): _Machine.mark,  # MARK
    ord("0"): lambda m: m.stack.pop(),  # POP
    ord("1"): _Machine.pop_mark,  # POP_MARK
    ord("N"): _push(lambda: None),  # NONE
    0x88: _push(lambda: True),  # NEWTRUE
    0x89: _push(lambda: False),  # NEWFALSE
    ord("]"): _push(list),  # EMPTY_LIST
    ord(")"): _push(tuple),  # EMPTY_TUPLE
    ord("}"): _push(dict),  # EMPTY_DICT
    0x8F: _push(set),  # EMPTY_SET
    ord("J"): lambda m: m.push(m.number(I4)),  # BININT
    ord("K"): lambda m: m.push(m.number(U1)),  # BININT1
    ord("M"): lambda m: m.push(m.number(U2)),  # BININT2
    0x8A: lambda m: m.push_integer(U1),  # LONG1
    0x8B: lambda m: m.push_integer(I4),  # LONG4
    ord("G"): lambda m: m.push(m.number(F8)),  # BINFLOAT
    0x8C: lambda m: m.push_text(U1),  # SHORT_BINUNICODE
    ord("X"): lambda m: m.push_text(U4),  # BINUNICODE
    0x8D: lambda m: m.push_text(U8),  # BINUNICODE8
    ord("C"): lambda m: m.push_bytes(U1),  # SHORT_BINBYTES
    ord("B"): lambda m: m.push_bytes(U4),  # BINBYTES
    0x8E: lambda m: m.push_bytes(U8),  # BINBYTES8
    0x96: lambda m: m.push_bytes(U8),  # BYTEARRAY8
    ord("U"): lambda m: m.push_python2_string(U1),  # SHORT_BINSTRING
    ord("T"): lambda m: m.push_python2_string(I4),  # BINSTRING
    0x85: lambda m: m.push_tuple(1),  # TUPLE1
    0x86: lambda m: m.push_tuple(2),  # TUPLE2
    0x87: lambda m: m.push_tuple(3),  # TUPLE3
    ord("t"): lambda m: m.push(tuple(m.pop_mark())),  # TUPLE
    0x91: lambda m: m.push(set(map(_key, m.pop_mark()))),  # FROZENSET
    ord("a"): lambda m: m.extend([m.stack.pop()]),  # APPEND
    ord("e"): lambda m: m.extend(m.pop_mark()),  # APPENDS
    ord("s"): lambda m: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),  # SETITEM
    ord("u"): lambda m: m.set_items(m.pop_mark()),  # SETITEMS
    0x90: lambda m: m.add_items(m.pop_mark()),  # ADDITEMS
    ord("q"): lambda m: m.remember(m.number(U1)),  # BINPUT
    ord("r"): lambda m: m.remember(m.number(U4)),  # LONG_BINPUT
    0x94: lambda m: m.remember(len(m.memo)),  # MEMOIZE
    ord("h"): lambda m: m.push(m.memo[m.number(U1)]),  # BINGET
    ord("j"): lambda m: m.push(m.memo[m.number(U4)]),  # LONG_BINGET
    ord("c"): lambda m: m.push_name(m.line(), m.line()),  # GLOBAL
    0x93: lambda m: m.push_name(*[m.stack.pop(), m.stack.pop()][::-1]),  # STACK_GLOBAL
    ord("R"): _Machine.make,  # REDUCE
    0x81: _Machine.make,  # NEWOBJ
    ord("b"): _Machine.build,  # BUILD
    ord("Q"): _Machine.refer,  # BINPERSID
    0x95: lambda m: m.number(U8),  # FRAME; the frames' contents follow each other
    0x80: lambda m: m.number(U1),  # PROTO
}
