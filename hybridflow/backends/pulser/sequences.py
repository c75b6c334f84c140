"""Pulser's devices and sequences from their abstract representations, with the vendor's reasons."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from hybridflow.errors import MissingExtraError, RequestError, SiteError, TooLargeError

__all__ = ["load_device", "read_sequence", "require"]


def require(package: str) -> ModuleType:
    """Import a package of Pulser's.

    Raises
    ------
    MissingExtraError
        If it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the backend 'pulser' needs {error.name}, which is not installed; "
            "install it with: pip install 'hybridflow[pulser]'"
        ) from error


def load_device(name: str) -> Any:
    """Return Pulser's device of a name, or of a file.

    Raises
    ------
    MissingExtraError
        If Pulser is not installed.
    SiteError
        If there is no such device, or the file holds none.
    """
    devices = require("pulser.devices")
    if name.endswith(".json"):
        return _device_in(Path(name))
    known = [item for item in devices.__all__ if isinstance(getattr(devices, item), _kinds())]
    if name not in known:
        raise SiteError(
            f"there is no device {name!r}; Pulser has: {', '.join(known)}; or name a .json file"
        )
    return getattr(devices, name)


def _kinds() -> tuple[type, ...]:
    devices = require("pulser.devices")
    return devices.Device, devices.VirtualDevice


def _device_in(file: Path) -> Any:
    deserializer = require("pulser.json.abstract_repr.deserializer")
    try:
        return deserializer.deserialize_device(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SiteError(f"the device's file {file} cannot be read: {error.strerror}") from error
    except Exception as error:  # a parser can fail with anything on garbage
        raise SiteError(f"{file} holds no device that Pulser can read: {_first(error)}") from error


def read_sequence(data: bytes, device: Any, most: int) -> Any:
    """Return the sequence in `data`, made for `device`.

    Parameters
    ----------
    data
        The sequence's abstract representation.
    device
        Pulser's device.
    most
        Largest number of atoms.

    Raises
    ------
    RequestError
        If it is no sequence, has free variables or does not fit the device.
    TooLargeError
        If it has too many atoms.
    """
    sequence = _parsed(data)
    if sequence.is_parametrized() or sequence.is_register_mappable():
        raise RequestError("the sequence has variables or atoms without values: build it first")
    atoms = len(sequence.register.qubit_ids)
    if atoms > most:
        raise TooLargeError(f"the sequence has {atoms} atoms; this resource takes {most}")
    if sequence.is_empty():
        raise RequestError("the sequence is empty: add a pulse to one of its channels")
    if sequence.device == device:
        return sequence
    try:
        return sequence.with_new_device(device, strict=True)  # or samples would change in silence
    except Exception as error:  # the vendor's checks raise ValueError, TypeError and others
        raise RequestError(
            f"the sequence, made for {sequence.device.name}, does not fit {device.name}: {error}"
        ) from error


def _parsed(data: bytes) -> Any:
    kind = require("pulser").Sequence
    try:
        return kind.from_abstract_repr(data.decode())
    except Exception as error:  # a parser can fail anywhere, and with anything, on garbage
        raise RequestError(f"a sequence could not be read: {_first(error)}") from error


def _first(error: Exception) -> str:
    # A schema's complaint goes on with the whole schema.
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:500]}"
