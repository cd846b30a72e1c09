"""Pickles as data: a table of opcodes that builds plain values, and can neither import nor call what a pickle names.

Python's own reader calls whatever a pickle names, and torch's `weights_only` has been talked into more than it should
(CVE-2026-24747). Here a name is only ever looked up in a table of the caller's; any other, and any other opcode than
those that `torch.save` writes for plain values, is refused before a value of it exists.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 64 << 20
"""Of a pickle: what is large in a checkpoint, its tensors, lies outside of it."""

KEYS = (str, int, float, bool, type(None))
"""What a key of a dictionary may be; hashing a deep tuple would exhaust the C stack."""


class NotPlainError(Exception):
    """The pickle holds more than plain values. `name` is what it names that it should not, where it is a name."""

    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class Maker:
    """A name that a pickle may call, and the function of ours that answers for it; ValueError for wrong arguments."""

    make: Callable[..., Any]


class Unfinished:
    """A value that a pickle makes in two steps: it takes its state by `finish`, and what that returns replaces it."""

    def finish(self, state: Any) -> Any:
        """Return the value itself; ValueError for a wrong state."""
        raise NotImplementedError


def read(data: bytes, names: Mapping[str, Any], refer: Callable[[Any], Any]) -> Any:
    """Return the value that a pickle of protocol 2 holds.

    Args:
        names: what the pickle may name, as `module name`: a Maker, or a value that stands for itself.
        refer: returns what a persistent id stands for.

    Raises:
        NotPlainError: naming what else it holds.
        ValueError: when it is damaged.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"its values take {len(data):,} bytes, more than {MOST_BYTES:,}")
    machine = _Machine(names, refer)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise NotPlainError(f"the pickle opcode {opcode.name}")
            action(machine, argument)
        (value,) = machine.stack
    except (LookupError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
        raise ValueError(f"its pickle is damaged ({type(error).__name__})") from None
    return value


class _Machine:
    """The stack of values, where marks lie on it, and what the pickle remembers by number."""

    def __init__(self, names: Mapping[str, Any], refer: Callable[[Any], Any]) -> None:
        self.names, self.refer = names, refer
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def since_mark(self) -> list[Any]:
        """Take what was put on the stack since the last mark."""
        start = self.marks.pop()
        if start > len(self.stack):
            raise ValueError("its pickle is damaged (a mark)")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def tuple_of(self, n: int) -> None:
        """Make a tuple of the last `n` values."""
        if n > len(self.stack):
            raise ValueError("its pickle is damaged (a tuple)")
        taken = tuple(self.stack[len(self.stack) - n :])
        del self.stack[len(self.stack) - n :]
        self.stack.append(taken)

    def remember(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def look_up(self, name: str) -> None:
        if name not in self.names:
            shown = name.replace(" ", ".")
            raise NotPlainError(shown, shown)
        self.stack.append(self.names[name])

    def call(self) -> None:
        arguments, maker = self.stack.pop(), self.stack.pop()
        if not isinstance(maker, Maker) or type(arguments) is not tuple:
            raise NotPlainError(f"a call of a {type(maker).__name__}")
        self.stack.append(maker.make(*arguments))

    def finish(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Unfinished):
            self.stack[-1] = target.finish(state)
            self.memo = {k: self.stack[-1] if v is target else v for k, v in self.memo.items()}
        elif type(target) is not OrderedDict and type(target) is not str:  # what is beside their values is not needed
            raise NotPlainError(f"a state for a {type(target).__name__}")

    def append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise NotPlainError(f"items for a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(values)

    def set(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict):
            raise NotPlainError(f"keys for a {type(target).__name__}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, KEYS):
                raise NotPlainError(f"a key that is a {type(key).__name__}")
            target[key] = value

    def pair(self) -> list[Any]:
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]


def _protocol(_: _Machine, number: int) -> None:
    if number != 2:
        raise NotPlainError(f"a pickle of protocol {number}")


_Action = Callable[[_Machine, Any], None]


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


_ACTIONS: dict[str, _Action] = {
    "PROTO": _protocol,
    "STOP": lambda m, _: None,
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), _push),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.since_mark()),
    "SETITEM": lambda m, _: m.set(m.pair()),
    "SETITEMS": lambda m, _: m.set(m.since_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda m, number: m.remember(number)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, number: m.stack.append(m.memo[number])),
    "GLOBAL": lambda m, name: m.look_up(name),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.finish(),
    "BINPERSID": lambda m, _: m.stack.append(m.refer(m.stack.pop())),
}
"""What each opcode does that torch.save writes for plain values."""


def check_plain(value: Any, leaves: tuple[type, ...], most: int = 64) -> None:
    """Raise NotPlainError unless `value` is made of dictionaries, lists and tuples, nested at most `most` deep and not
    within themselves, of plain values, and of `leaves`."""
    _check(value, (*KEYS, bytes, *leaves), most, {})


def _check(value: Any, leaves: tuple[type, ...], most: int, seen: dict[int, bool]) -> None:
    """`seen` says of each container, by its identity, whether all of it has been looked at."""
    if isinstance(value, leaves) or seen.get(id(value)):
        return
    if not isinstance(value, (dict, list, tuple)):
        raise NotPlainError(f"a {type(value).__name__}")
    if not most or id(value) in seen:
        raise NotPlainError("values nested without end")
    seen[id(value)] = False
    for item in value.values() if isinstance(value, dict) else value:
        _check(item, leaves, most - 1, seen)
    seen[id(value)] = True
