"""SQD's diagonalizations: two Parsl workers against a serial script of qiskit-addon-sqd.

The same loop on the same samples with the same seed, in one run, start-up excluded:

* ours: each subspace as a classical task through ``make_sci_solver``, on two workers of one thread;
* the addon's own ``solve_sci_batch`` in one process, on one thread: at least 2.2 times slower;
* the same on two threads: at least 1.5 times slower.

All energies of all iterations must agree to 1e-10 hartree. The case is N2 in 6-31G at 1.0 angstrom
(32 qubits): 4 batches, at most 450 strings of one spin, 4 iterations; its samples are those of the
LUCJ ansatz with 30 % of them replaced by random ones, drawn once from ffsim's state vector.

    python benchmarks/sqd_fanout.py [--small] [--rounds 1] [--samples FILE]
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hybridflow import open_pools
from hybridflow.environment import thread_limits
from hybridflow_workflows.sqd import SQDParameters, make_sci_solver
from hybridflow_workflows.sqd.addon import addon

ONE_THREAD, TWO_THREADS, AGREE = 2.2, 1.5, 1e-10
WORKERS, SEED = 2, 7


@dataclass(frozen=True)
class Case:
    """What is computed, and within which bounds."""

    asked: SQDParameters
    batches: int
    max_dim: int
    iterations: int
    samples_per_batch: int = 500


FULL = Case(SQDParameters(molecule="n2", bond=1.0), batches=4, max_dim=450, iterations=4)
SMALL = Case(SQDParameters(molecule="h2o", bond=2.0), batches=4, max_dim=120, iterations=2)


def prepare(case: Case, file: Path) -> None:
    """Write the case's integrals and samples."""
    import ffsim

    from hybridflow_workflows.sqd.ansatz import fitted_operator
    from hybridflow_workflows.sqd.molecule import check, compute_integrals

    integrals = compute_integrals(check(case.asked))
    norb, nelec = integrals.orbitals, integrals.electrons
    operator = fitted_operator(integrals, repetitions=2, optimize=True)
    state = ffsim.apply_unitary(
        ffsim.hartree_fock_state(norb, nelec), operator, norb=norb, nelec=nelec
    )
    samples = ffsim.sample_state_vector(
        state,
        norb=norb,
        nelec=nelec,
        shots=10_000,
        concatenate=True,
        bitstring_type=ffsim.BitstringType.BIT_ARRAY,
        seed=SEED,
    )
    generator = np.random.default_rng(SEED)
    noise = generator.integers(2, size=samples.shape, dtype=bool)
    samples = np.where(generator.random(len(samples))[:, None] < 0.3, noise, samples)
    np.savez(
        file,
        one_body=integrals.one_body,
        two_body=integrals.two_body,
        samples=samples,
        nelec=nelec,
    )


def loop(case: Case, file: Path, solver: Callable[..., Any]) -> tuple[float, list[float]]:
    """Return the seconds of the whole loop, and the energy of each subspace."""
    problem = np.load(file)
    one_body, two_body, samples = problem["one_body"], problem["two_body"], problem["samples"]
    nelec = tuple(problem["nelec"].tolist())
    energies: list[float] = []
    began = time.perf_counter()
    addon("fermion").diagonalize_fermionic_hamiltonian(
        one_body,
        two_body,
        samples,
        samples_per_batch=case.samples_per_batch,
        norb=len(one_body),
        nelec=nelec,
        num_batches=case.batches,
        max_iterations=case.iterations,
        max_dim=case.max_dim,
        symmetrize_spin=True,
        sci_solver=solver,
        callback=lambda results: energies.extend(float(result.energy) for result in results),
        seed=SEED,
    )
    return time.perf_counter() - began, energies


def serial(case: Case, file: Path) -> tuple[float, list[float]]:
    """Run the addon's own solver, in this process."""
    return loop(case, file, functools.partial(addon("fermion").solve_sci_batch, spin_sq=0.0))


def serial_on(threads: int, small: bool, file: Path) -> tuple[float, list[float]]:
    """Run it in a process with that many threads."""
    seconds, energies = json.loads(child("--serial", threads, small, file))
    return seconds, energies


def child(what: str, threads: int, small: bool, file: Path) -> bytes:
    """Run a part of this script in a process of its own, and return what it prints."""
    command = [sys.executable, __file__, what, "--samples", str(file), *["--small"] * small]
    variables = os.environ | thread_limits(threads)
    return subprocess.run(command, env=variables, stdout=subprocess.PIPE, check=True).stdout


def through_parsl(case: Case, file: Path) -> tuple[float, list[float]]:
    """One task a subspace, on two workers that are up."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_pools(engine="parsl", workers=WORKERS, run_dir=folder) as pools,
    ):
        solver = make_sci_solver(pools.classical, spin_sq=0.0, symmetrize_spin=True, folder=folder)
        problem = np.load(file)
        nelec = tuple(problem["nelec"].tolist())
        lowest = tuple(np.array([(1 << electrons) - 1]) for electrons in nelec)
        for future in solver.submit(
            [lowest] * WORKERS, problem["one_body"], problem["two_body"], nelec
        ):
            future.result()
        return loop(case, file, solver)


def compare(small: bool, rounds: int, file: Path) -> bool:
    """Print all times and ratios; return whether the energies agree."""
    case = SMALL if small else FULL
    times: dict[str, list[float]] = {}
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        measured = {
            "parsl, 2 workers of 1 thread": through_parsl(case, file),
            "serial, 1 thread": serial_on(1, small, file),
            "serial, 2 threads": serial_on(2, small, file),
        }
        for name, (seconds, energies) in measured.items():
            print(f"round {number + 1}: {name:<30} {seconds:7.2f} s", flush=True)
            times.setdefault(name, []).append(seconds)
            found[name] = energies
    ours, *others = times
    for name, wanted in zip(others, (ONE_THREAD, TWO_THREADS), strict=True):
        ratio = statistics.median(
            theirs / mine for theirs, mine in zip(times[name], times[ours], strict=True)
        )
        verdict = "" if small else (" (met)" if ratio >= wanted else " (MISSED)")
        print(f"{name} / ours: {ratio:.2f}, wanted {wanted}{verdict}")
    apart = max(float(np.abs(np.subtract(found[ours], found[name])).max()) for name in others)
    print(
        f"lowest energy without the core's {min(found[ours]):.10f} Ha, energies {apart:.1e} apart"
    )
    return apart <= AGREE


def main() -> None:
    """Measure, or be a part of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--small", action="store_true", help="a quick check, no measurement")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--samples", type=Path, help="keep the prepared samples in this file")
    parser.add_argument("--serial", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    case = SMALL if asked.small else FULL
    if asked.serial:
        print(json.dumps(serial(case, asked.samples)))
        return
    if asked.prepare:
        prepare(case, asked.samples)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = asked.samples or Path(folder, "samples.npz")
        if not file.exists():
            # Not in this process: JAX, which the fit uses, does not bear the forks to come.
            child("--prepare", WORKERS, asked.small, file)
        agree = compare(asked.small, asked.rounds, file)
    sys.exit(0 if agree else "the energies differ")


if __name__ == "__main__":
    main()
