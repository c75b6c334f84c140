"""Fills subspaces up where samples are too few; only if it is asked for.

A good ansatz of a molecule, sampled without noise, gives a handful of configurations over and over.
Where a batch spans fewer strings than it has samples, single excitations of the strings that carry
the state so far fill it up (the idea of extended SQD, arXiv:2411.00468): no QPU time, and no
subspace larger than the batch was meant to span.
"""

from typing import TYPE_CHECKING, Any

from hybridflow_workflows.sqd.addon import addon

if TYPE_CHECKING:
    import numpy as np
    from qiskit_addon_sqd.fermion import SCIResult, SubspaceRequest

    Strings = np.ndarray[Any, Any]

__all__ = ["FillingPolicy", "single_excitations"]


class FillingPolicy:
    """A ``SubspacePolicy`` of qiskit-addon-sqd: its standard one, with batches filled up.

    Parameters
    ----------
    carryover_threshold
        Amplitude above which strings go on to the next iteration.
    """

    def __init__(self, carryover_threshold: float) -> None:
        self._standard = addon("fermion").StandardPolicy(carryover_threshold=carryover_threshold)

    def prepare_subspaces(self, request: "SubspaceRequest") -> "list[tuple[Strings, Strings]]":
        """Return the subspaces of the batches; with excitations, where their strings are few."""
        subspaces = self._standard.prepare_subspaces(request)
        alpha = single_excitations(request.carryover_strings_a, request.norb)
        beta = single_excitations(request.carryover_strings_b, request.norb)
        wanted = request.samples_per_batch
        return [(self._fill(a, alpha, wanted), self._fill(b, beta, wanted)) for a, b in subspaces]

    def _fill(self, strings: "Strings", more: "Strings", wanted: int) -> "Strings":
        import numpy as np

        new = more[~np.isin(more, strings)]
        _, first = np.unique(new, return_index=True)
        taken = new[np.sort(first)][: max(0, wanted - len(np.unique(strings)))]
        return np.concatenate((strings, taken))

    def refine(
        self, results: "list[SCIResult]", round_index: int
    ) -> "list[tuple[Strings, Strings]] | None":
        """Return what the standard policy does: no further round."""
        refined: list[tuple[Strings, Strings]] | None = self._standard.refine(results, round_index)
        return refined

    def select_result(self, results: "list[SCIResult]") -> "SCIResult":
        """Return the result with the lowest energy."""
        return self._standard.select_result(results)

    def select_carryover(
        self, result: "SCIResult", *, symmetrize_spin: bool = False
    ) -> "tuple[Strings, Strings]":
        """Return the strings that go on to the next iteration."""
        alpha, beta = self._standard.select_carryover(result, symmetrize_spin=symmetrize_spin)
        return alpha, beta


def single_excitations(strings: "Strings", norb: int) -> "Strings":
    """Return strings with one electron moved, those of the first string first.

    Parameters
    ----------
    strings
        Occupations of `norb` orbitals as the bits of integers.
    norb
        Number of orbitals.
    """
    import numpy as np

    lower, upper = np.triu_indices(norb, 1)
    one = np.int64(1)
    moves = (one << lower) | (one << upper)
    # An electron can move where exactly one of the two orbitals is occupied.
    movable = ((strings[:, None] >> lower) ^ (strings[:, None] >> upper)) & one
    moved: Strings = (strings[:, None] ^ moves)[movable.astype(bool)]
    return moved
