"""Tasks that are killed, and what an engine would make of them: without Qiskit, to begin at once.

    python kill_tasks.py tasks FOLDER SHOTS…     a process for each; one that dies is run once more
    python kill_tasks.py drive FOLDER SHOTS…     a driver with a lease, whose door runs these tasks

FOLDER holds the packed requests, and the site file. Each task prints its shots and the vendor job.
"""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import msgspec

from hybridflow.broker.client import connect
from hybridflow.broker.place import socket_path
from hybridflow.kernel import process_born, process_namespace
from hybridflow.lease import Lease
from hybridflow.records import ClientInfo, PackedPub, Primitive, Request


def sample(folder: Path, shots: int) -> None:
    pubs = msgspec.msgpack.decode((folder / "pubs").read_bytes(), type=list[PackedPub])
    (pub,) = (pub for pub in pubs if pub.shots == shots)
    pid = os.getpid()
    client = ClientInfo(
        host=os.uname().nodename,
        pid=pid,
        namespace=process_namespace(),
        born=process_born(pid) or 0,
        attempt=uuid.uuid4().hex,
    )
    request = Request(id=uuid.uuid4().hex, primitive=Primitive.SAMPLER, pubs=(pub,), client=client)
    connection = connect(socket_path(os.environ["HYBRIDFLOW_BROKER"], "qpu"))
    reply = connection.submit(request).future.result(60)
    os.write(1, f"{shots} {reply.provenance.vendor_job_id}\n".encode())


def begin(folder: Path, shots: int) -> int:
    pid = os.fork()
    if not pid:
        sample(folder, shots)
        os._exit(0)
    return pid


def tasks(folder: Path, all_shots: list[int]) -> None:
    under_way = {begin(folder, shots): shots for shots in all_shots}
    while under_way:
        pid, status = os.wait()
        shots = under_way.pop(pid)
        if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
            under_way[begin(folder, shots)] = shots


def door(folder: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "hybridflow", "slot", "run"),
        *("--site", str(folder / "site.toml"), *options, "--"),
        *(sys.executable, __file__, "tasks", str(folder)),
    ]


def drive(folder: Path, all_shots: list[int]) -> None:
    with Lease.hold(folder / "lease") as lease:
        command = [*door(folder, "--lease", str(lease.path)), *map(str, all_shots)]
        variables = os.environ | {"KILL_DRIVER": str(os.getpid())}
        with subprocess.Popen(command, env=variables) as process:
            (folder / "door.pid").write_text(str(process.pid))
            process.wait()


if __name__ == "__main__":
    role, folder, *numbers = sys.argv[1:]
    {"tasks": tasks, "drive": drive}[role](Path(folder), [*map(int, numbers)])
