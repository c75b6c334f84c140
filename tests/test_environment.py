"""What a program inside or outside a slot is started with."""

from hybridflow.environment import (
    Role,
    clean,
    credentials,
    in_engine_worker,
    in_slurm_job,
    names_credentials,
)

DIRTY = {
    "PATH": "/usr/bin",
    "SLURM_JOB_ID": "17",
    "SLURM_NTASKS": "4",
    "PMI_RANK": "0",
    "PMIX_RANK": "0",
    "OMPI_COMM_WORLD_SIZE": "4",
    "MPI_LOCALNRANKS": "4",
    "QRMI_JOB_QPU_RESOURCES": "torino",
    "torino_QRMI_IBM_QCS_IAM_APIKEY": "secret",
    "torino_QRMI_JOB_ACQUISITION_TOKEN": "token",
    "torino_QRMI_JOB_QPU_SLOTS": "2",
    "torino_QRMI_JOB_TIMEOUT_SECONDS": "3600",
    "HYBRIDFLOW_CREDENTIALS": "/run/c",
    "HYBRIDFLOW_BROKER": "/run/b",
}


def test_a_quantum_worker_keeps_the_broker_and_loses_the_key() -> None:
    kept = clean(DIRTY, Role.QUANTUM)
    assert kept == {
        "PATH": "/usr/bin",
        "SLURM_JOB_ID": "17",
        "QRMI_JOB_QPU_RESOURCES": "torino",
        "HYBRIDFLOW_BROKER": "/run/b",
        "HYBRIDFLOW_ROLE": "quantum",
    }


def test_a_classical_worker_loses_the_way_to_the_broker_too() -> None:
    kept = clean(DIRTY, Role.CLASSICAL)
    assert "HYBRIDFLOW_BROKER" not in kept
    assert kept["HYBRIDFLOW_ROLE"] == "classical"


def test_the_credentials_of_one_resource() -> None:
    assert credentials(DIRTY, "torino") == {
        "QRMI_IBM_QCS_IAM_APIKEY": "secret",
        "QRMI_JOB_ACQUISITION_TOKEN": "token",
    }
    assert credentials(DIRTY, "fez") == {}


def test_no_resource_gets_the_key_of_one_whose_name_begins_like_its_own() -> None:
    assert credentials({"torino_b_QRMI_IBM_QCS_IAM_APIKEY": "secret"}, "torino") == {}


def test_only_credentials_are_named_as_such() -> None:
    assert names_credentials(DIRTY) == [
        "torino_QRMI_IBM_QCS_IAM_APIKEY",
        "torino_QRMI_JOB_ACQUISITION_TOKEN",
    ]


def test_where_am_i() -> None:
    assert in_slurm_job(DIRTY)
    assert not in_slurm_job({})
    assert in_engine_worker({"PARSL_WORKER_RANK": "0"})
    assert in_engine_worker({"HYBRIDFLOW_ROLE": "classical"})
    assert not in_engine_worker(DIRTY)
