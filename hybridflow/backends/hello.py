"""What an interpreter has, as ``python -m hybridflow.backends.hello`` prints it in JSON.

A backend may run in another interpreter, with a Qiskit and a hybridflow of its own. Before anything
is sent there, both sides must know that they understand each other.
"""

import platform
from importlib.metadata import PackageNotFoundError, version

import msgspec

__all__ = ["PROTOCOL", "Hello", "hello", "main"]

PROTOCOL = 1
"""Counts the ways in which a hosted backend and its owner have spoken: ``channel.py`` with the
records in it. One that has changed is another protocol; new fields with defaults are not."""


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """What an interpreter has.

    Attributes
    ----------
    protocol
        Of hosted backends.
    hybridflow, python, qiskit
        Versions.
    qpy
        Newest version of QPY that this Qiskit reads.
    """

    protocol: int
    hybridflow: str
    python: str
    qiskit: str
    qpy: int


def hello() -> Hello:
    """Return what this interpreter has; imports Qiskit."""
    import qiskit
    from qiskit import qpy

    return Hello(
        protocol=PROTOCOL,
        hybridflow=_version("hybridflow"),
        python=platform.python_version(),
        qiskit=str(qiskit.__version__),
        qpy=int(qpy.QPY_VERSION),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def main() -> None:
    """Print it."""
    print(msgspec.json.encode(hello()).decode())


if __name__ == "__main__":
    main()
