"""Results of quantum tasks, which travel in one piece.

Dask sends each entry of a dictionary, list, tuple or set that a task returned as a part of its own,
with a pickle and a header for each; what a QPU has counted is often a thousand numbers in a
dictionary. Of a subclass it makes one pickle, and that is read as what it was.
"""

from collections.abc import Callable
from typing import Any

from distributed.protocol.serialize import check_dask_serializable

__all__ = ["in_one_piece"]


class _Dict(dict[Any, Any]):
    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class _List(list[Any]):
    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


class _Tuple(tuple[Any, ...]):
    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)


class _Set(set[Any]):
    def __reduce__(self) -> tuple[Any, ...]:
        return set, (set(self),)


_WHOLE: dict[type, Callable[[Any], Any]] = {dict: _Dict, list: _List, tuple: _Tuple, set: _Set}


def in_one_piece(result: Any) -> Any:
    """Return what to keep of a result, which is equal to it, and sent as one piece.

    Only a collection whose entries Dask has nothing better for than a pickle is changed: arrays in
    a list are sent without copies.
    """
    whole = _WHOLE.get(type(result))
    return result if whole is None or check_dask_serializable(result) else whole(result)
