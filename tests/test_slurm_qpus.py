"""``hybridflow qpus``: slots, holders, queue and nodes, as a real Slurm has them."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from hybridflow.cli import main
from hybridflow.slurm import Component, Job, SlurmState, Watch, submit
from hybridflow.slurm.cluster import SlurmCluster
from hybridflow.slurm.text import amounts, fields

SITE = """
[qpu.aer_a]
backend = "aer"
[qpu.big]
backend = "aer"
[qpu.cloud]
backend = "fake"
[qpu.dream]
backend = "fake"
[slurm.slots.big]
gres = "qpu:aer_b:1"
"""


@pytest.fixture
def site(tmp_path: Path) -> str:
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    return str(file)


def show(site: str, *options: str) -> str:
    done = CliRunner().invoke(main, ["qpus", "--site", site, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def occupy(*licenses: str) -> str:
    slot = Component(gres=("qpu:aer_a:1",), licenses=licenses)
    return submit(Job(name="holder", command=("sleep", "60"), components=(slot,)))


def wait_until_running(job: str) -> None:
    deadline = time.monotonic() + 30
    while Watch([job]).look()[job].state is not SlurmState.RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_slots_holders_queue_and_nodes(on_cluster: SlurmCluster, site: str) -> None:
    first = occupy("cloud:2")
    wait_until_running(first)
    second = occupy()
    rows = {row["name"]: row for row in json.loads(show(site, "--json"))}
    claim = {"job": first, "user": rows["aer_a"]["holders"][0]["user"], "slots": 1}
    assert (rows["aer_a"]["used"], rows["aer_a"]["slots"]) == (1, 1)
    assert rows["aer_a"]["holders"] == [claim]
    assert [waiting["job"] for waiting in rows["aer_a"]["queue"]] == [second]
    assert rows["aer_a"]["nodes"] == {"q1": "mixed"}
    assert (rows["big"]["source"], rows["big"]["used"], rows["big"]["slots"]) == ("gres", 0, 2)
    cloud = rows["cloud"]
    assert (cloud["source"], cloud["used"], cloud["slots"]) == ("license", 2, 2)
    table = show(site).splitlines()
    assert table[0].split() == ["resource", "type", "slots", "held", "by", "queue", "state"]
    expected = f"aer_a aer 1/1 {claim['user']} (job {first}) 1 q1 mixed"
    assert table[1].split() == expected.split()
    assert table[3].endswith("0      licence")
    assert table[4].endswith("not known to Slurm")


def test_a_node_that_is_drained_says_why(on_cluster: SlurmCluster, site: str) -> None:
    on_cluster.run(["scontrol", "update", "nodename=q1", "state=drain", "reason=cold fridge"])
    try:
        assert "drain (cold fridge)" in show(site)
    finally:
        on_cluster.run(["scontrol", "update", "nodename=q1", "state=resume"])


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("", {}),
        ("gres:qpu:aer_a:1", {"qpu:aer_a": 1}),
        ("gres/qpu:aer_a=2,gres/gpu=4", {"qpu:aer_a": 2, "gpu": 4}),
        ("qpu:aer_a(CNT:1),qpu:aer_a(CNT:2)", {"qpu:aer_a": 3}),
        ("gpu:v100:2(IDX:0-1)", {"gpu:v100": 2}),
        ("cloud", {"cloud": 1}),
    ],
)
def test_amounts_are_read_in_all_of_slurms_spellings(text: str, means: dict[str, int]) -> None:
    assert amounts(text) == means


def test_values_with_blanks_are_read() -> None:
    line = "JobId=3 JobName=my job=x UserId=ada(7) Reason=(null) NodeList= TRES=cpu=1,mem=2M "
    assert fields(line) == {
        "JobId": "3",
        "JobName": "my job=x",
        "UserId": "ada(7)",
        "Reason": "",
        "NodeList": "",
        "TRES": "cpu=1,mem=2M",
    }
