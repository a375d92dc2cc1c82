"""The benchmark of submissions: its stand-ins answer as Slurm does, and our own part of it runs."""

import os
import sys
import time

import pytest

from bench import submit as bench
from bench.peers.clients import Clients, spend, weigh
from hpc.cluster import queue


@pytest.fixture
def clients(tmp_path, monkeypatch):
    made = Clients(tmp_path / "clients")
    monkeypatch.setenv("PATH", f"{made.folder}:{os.environ['PATH']}")
    return made


def sbatch(tmp_path, *lines):
    script = tmp_path / "job.sh"
    script.write_text("\n".join(["#!/bin/bash", *(f"#SBATCH {line}" for line in lines)]) + "\n")
    return queue.run(["sbatch", str(script)])


def test_the_stand_ins_say_what_our_queries_ask_for(tmp_path, clients):
    assert sbatch(tmp_path, "--array=0-9%4", "--job-name=grid.1") == "Submitted batch job 1000\n"
    assert sbatch(tmp_path, "--job-name=alone.2") == "Submitted batch job 1001\n"
    clients.say("phase", "COMPLETED 3 FAILED 1 RUNNING 2")
    wanted = [*(("grid.1", index) for index in range(10)), ("alone.2", None)]
    table = queue.look(wanted, time.time())
    words = [table[name].word for name in wanted]
    assert words == ["COMPLETED"] * 3 + ["FAILED"] + ["RUNNING"] * 2 + ["PENDING"] * 5
    assert table["grid.1", 3].exit == "1:0" and table["grid.1", 4].job_id == "1000_4"
    assert [name for name, _, _ in clients.calls()] == ["sbatch", "sbatch", "squeue", "sacct"]


def test_accounting_has_one_row_for_the_elements_that_wait(tmp_path, clients):
    sbatch(tmp_path, "--array=0-999%256", "--job-name=grid.1")
    clients.say("phase", "COMPLETED 2")
    rows = queue.run(["sacct", "-j", "1000", "--format=JobID,State", "--parsable2"]).splitlines()
    assert rows == ["JobID|State", "1000_0|COMPLETED", "1000_1|COMPLETED", "1000_[2-999%256]|PENDING"]


def test_jobs_of_others_are_hidden_from_me_and_my_own_are_not(clients):
    clients.say("foreign", "30 20")
    count = {flag: len(queue.run(["squeue", "-h", *flag, "-o", "%i"]).split()) for flag in ((), ("--me",))}
    assert count == {(): 50, ("--me",): 20}


def test_a_command_that_blocks_after_its_sbatch_is_ended(tmp_path, clients):
    (tmp_path / "job.sh").write_text("#!/bin/bash\n#SBATCH --array=0-9\n")
    code = "import subprocess, time\nwhile sum(range(10**6)) and time.process_time() < 0.2: pass\n"
    code += "for c in (['sbatch', 'job.sh'], ['sacct', '-o', 'JobID']): subprocess.run(c)\n"
    began = time.monotonic()
    command = [sys.executable, "-c", code + "time.sleep(300)"]
    spent = spend(command, clients, clients.environment(), tmp_path, returns=False)
    assert time.monotonic() - began < 60
    assert spent.returned_s is None and spent.sbatch_s is not None
    assert 0.15 < spent.cpu_s < 5 and spent.calls == {"sbatch": 1, "sacct": 1}


def test_a_command_that_fails_is_no_measurement(tmp_path, clients):
    with pytest.raises(RuntimeError, match="exit 3\nwhy"):
        spend([sys.executable, "-c", "print('why'); exit(3)"], clients, clients.environment(), tmp_path)


def test_our_grid_of_a_thousand_is_one_array_and_its_status_one_query(tmp_path, clients, monkeypatch):
    monkeypatch.setenv("PEERS_VENV", str(tmp_path / "none"))
    tools, left_out = bench.installed()
    assert [t.name for t in tools] == ["hpc"] and len(left_out) == 3
    row = bench.once(tools[0], tmp_path / "once", clients)
    jobs = [line.split("|")[1:4] for line in (clients.folder / "jobs").read_text().splitlines()]
    assert [(first, last) for name, first, last in jobs if ".data-" in name] == [("0", "999")]
    assert row["submit_calls"]["sbatch"] == len(jobs) <= 2  # the grid and, where the profile wants one, the mender
    assert row["status_calls"] == {"squeue": 1}
    assert row["files"] - row.get("of_which_code_files", 0) < 20
    assert not (tmp_path / "once").exists()


def test_planning_and_submitting_are_told_apart(tmp_path, clients, monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 1)
    found = bench.in_parts(bench.installed()[0][0], tmp_path / "parts", clients)
    assert set(found) == {"import_and_plan_s", "submit_after_planning_s"}
    assert all(0 < row["min"] == row["max"] for row in found.values())


def test_weighing_counts_files_folders_and_bytes(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("12345")
    (tmp_path / "a/link").symlink_to("b/c")
    assert weigh(tmp_path) == {"files": 2, "folders": 2, "bytes": 5 + len("b/c")}
