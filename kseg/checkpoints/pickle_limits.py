"""What a pickle may ask for, looked at before Python's unpickler runs it.

The unpickler believes a pickle: it makes room for the largest number that one gives to an
object, or for the bytes that one announces, and a tuple of tuples of tuples ends the process
where it becomes a key, because Python's hash of it has no limit of depth, or takes for ever,
because a tuple can have another one twice.
"""

from __future__ import annotations

import io
import os
import pickletools
from typing import Any, BinaryIO

_OPERATIONS = {operation.code.encode("latin1"): operation for operation in pickletools.opcodes}
_MARK = pickletools.markobject
# They change what is there, or give it once more.
_IN_PLACE = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD", "DUP", "MEMOIZE")
# What has no hash: what is in it does not count.
_LISTS = ("LIST", "DICT")
_DEPTH, _SIZE = 100, 10_000
# Depth, and how much is in it; one that is there twice counts twice.
_Extent = tuple[int, int]
_NONE: _Extent = (0, 0)


def read_pickle(file: BinaryIO) -> io.BytesIO:
    """The pickle that begins where a file stands, whose reading needs no more room than it has.

    Raises:
        ValueError: it is none, is cut short, is nested more than 100 times, numbers its
            objects by more than it has, or has a tuple of more than 10,000 values.
    """
    begin = file.tell()
    bounded = _Bounded(file)
    stack: list[_Extent | None] = []  # None is a mark
    memo: dict[int, _Extent] = {}
    name, count = "", 0
    while name != "STOP":
        count += 1
        code = bounded.read(1)
        if code not in _OPERATIONS:
            raise ValueError(f"no pickle (operation {code!r})")
        name, argument = _OPERATIONS[code].name, _argument(_OPERATIONS[code], bounded)
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if not 0 <= argument <= count:
                raise ValueError(f"a pickle's object {argument} of at most {count}")
            memo[argument] = _top(stack)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo.get(argument, _NONE))
        else:
            _apply(_OPERATIONS[code], stack)
            if name == "MEMOIZE":
                memo[len(memo)] = _top(stack)
    end = file.tell()
    file.seek(begin)
    return io.BytesIO(file.read(end - begin))


def _argument(operation: Any, file: Any) -> Any:
    if operation.name == "STRING":
        # Python 2's bytes, which need not be ASCII.
        return file.readline()
    return operation.arg and operation.arg.reader(file)


def _apply(operation: Any, stack: list[_Extent | None]) -> None:
    """What an operation takes from the stack and puts there."""
    before, after = operation.stack_before, operation.stack_after
    taken: list[_Extent] = []
    count = len(before)
    if _MARK in before or (operation.name == "POP" and stack and stack[-1] is None):
        while stack and (extent := stack.pop()) is not None:
            taken.append(extent)
        count = before.index(_MARK) if _MARK in before else 0
    taken += [stack.pop() or _NONE for _ in range(min(count, len(stack)))]
    if operation.name == "MARK":
        stack.append(None)
    elif after:
        # The first that was put there is what is changed in place.
        whole, size = taken.pop() if taken and operation.name in _IN_PLACE else _NONE
        depth = max(whole, 1 + max((extent[0] for extent in taken), default=0))
        if operation.name not in (*_IN_PLACE, *_LISTS):
            size = 1 + sum(extent[1] for extent in taken)
        if depth > _DEPTH or size > _SIZE:
            raise ValueError("a pickle of more and deeper tuples or lists than weights have")
        stack += [(depth, size)] * len(after)


def _top(stack: list[_Extent | None]) -> _Extent:
    return (stack[-1] if stack else _NONE) or _NONE


class _Bounded:
    """A file of which no more is asked than it has: Python makes room before it reads."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        here = file.tell()
        self._size = file.seek(0, os.SEEK_END)
        file.seek(here)
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        return self._file.read(max(0, min(count, self._size - self._file.tell())))
