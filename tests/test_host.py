"""Memory that a job may use is the least that anybody grants it."""

from hpc import host


def test_the_least_limit_of_the_control_groups_counts(tmp_path):
    v2 = tmp_path / "v2/system/job_7/step_0"
    v2.mkdir(parents=True)
    (v2 / "memory.max").write_text("max\n")
    (v2.parent / "memory.max").write_text(f"{3 * 2**30}\n")
    proc = tmp_path / "cgroup"
    proc.write_text("0::/system/job_7/step_0\n")
    assert host.cgroup_limit(proc, tmp_path / "v2") == 3 * 2**30
    v1 = tmp_path / "v1/memory/slurm/job_7"
    v1.mkdir(parents=True)
    (v1 / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    proc.write_text("4:memory:/slurm/job_7\n2:cpu:/slurm\n")
    assert host.cgroup_limit(proc, tmp_path / "v1") is None


def test_memory_is_what_slurm_grants_where_that_is_less_than_the_machine_has(monkeypatch):
    monkeypatch.setattr(host, "cgroup_limit", lambda: None)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")
    machine = host.memory_bytes()
    assert machine > 2**30
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "512")
    assert host.memory_bytes() == 512 * 2**20
    monkeypatch.setattr(host, "cgroup_limit", lambda: 256 * 2**20)
    assert host.memory_bytes() == 256 * 2**20
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    assert host.memory_bytes() == 256 * 2**20
