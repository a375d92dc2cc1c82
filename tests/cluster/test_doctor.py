"""The doctor's rows from canned answers and real folders; the profiles that we ship; a drafted profile."""

import dataclasses
import importlib.metadata
import json
import os
import sys
from pathlib import Path

import pytest

from hpc.cluster import script
from hpc.cluster.profile import Place, find_profile
from hpc.cluster.site import build, checks, doctor, draft, facts, here, probe
from hpc.cluster.site.facts import Facts, Row
from hpc.errors import ClusterError
from hpc.plan import room

SHIPPED = sorted((Path(__file__).parents[2] / "sbatch" / "profiles").glob("*.yaml"))
CONFIG = """Configuration data as of 2026-01-01T00:00:00
ClusterName             = deep
EnforcePartLimits       = NO
JobRequeue              = 1
KillWait                = 30 sec
MaxArraySize            = 501
MaxJobCount             = 10000
PreemptMode             = REQUEUE
PreemptParameters       = (null)
PreemptType             = preempt/partition_prio
SelectType              = select/cons_tres
SLURM_VERSION           = 23.11.4
"""
SINFO = """big|up|2-00:00:00|12|64|1031000|gpu:a100:4(S:0-1)|idle
big|up|2-00:00:00|4|64|1031000|gpu:a100:4(S:0-1)|drained
cheap|up|1-00:00:00|16|64|1031000|gpu:a100:4(S:0-1)|mixed
quick|up|0:30:00|2|64|1031000|gpu:a100:4(S:0-1)|idle
short|up|0:30:00|2|64|1031000|gpu:v100:2|idle
cpu*|up|1-00:00:00|40|128|257000|(null)|idle
"""
PARTITIONS = """PartitionName=big AllowAccounts=lab,physics AllowQos=ALL Default=NO GraceTime=0 MaxTime=2-00:00:00 \
PreemptMode=OFF State=UP MaxNodes=UNLIMITED
PartitionName=cheap AllowAccounts=ALL AllowQos=ALL Default=NO GraceTime=60 MaxTime=1-00:00:00 PreemptMode=REQUEUE \
State=UP
PartitionName=quick AllowAccounts=ALL AllowQos=ALL Default=NO GraceTime=0 MaxTime=00:30:00 PreemptMode=OFF State=UP
PartitionName=short AllowAccounts=ALL AllowQos=ALL Default=NO GraceTime=0 MaxTime=00:30:00 PreemptMode=OFF State=UP
PartitionName=cpu AllowAccounts=ALL AllowQos=ALL Default=YES GraceTime=0 MaxTime=1-00:00:00 PreemptMode=OFF State=UP
"""


def deep(**changes):
    """The canned cluster; changes replace fields, or values of its configuration."""
    config = {**facts.parse_config(CONFIG), **changes.pop("config", {})}
    found = facts.parse_partitions(PARTITIONS, facts.parse_nodes(SINFO))
    return Facts(config, found, **{"skew_s": 0.0, **changes})


def asking(**settings):
    """A profile that fits the canned cluster, but for `settings`."""
    fitting = {
        "partition": "big",
        "cpu_partition": "cpu",
        "gpu": "a100",
        "gpus_per_node": 4,
        "max_array_size": 501,
        "memory_gib": 900,
        "hours": 24,
        "stages": {k: Place(memory_gib=16) for k in ("data", "grade", "mend")},
    }
    return find_profile("slurm", **{**fitting, **settings})


def rows(known, profile):
    """Every row that does not come from a command, by name."""
    found = list(checks.cluster(known, profile))
    for name, kinds in checks.partitions(profile).items():
        found += checks.partition(known, profile, name, kinds)
    found += checks.rights(known, profile)
    return {r.name: r for r in found}


def wrong(known, profile):
    return {n: r for n, r in rows(known, profile).items() if r.state == "fail"}


@pytest.mark.parametrize(
    "text, hours",
    [("2-00:00:00", 48), ("1-12", 36), ("90", 1.5), ("0:30:00", 0.5), ("30:00", 0.5), ("UNLIMITED", None), ("", None)],
)
def test_time_limits_are_read_as_slurm_writes_them(text, hours):
    assert facts.hours(text) == hours


@pytest.mark.parametrize(
    "text, gpus",
    [
        ("gpu:h100:8(S:0-1)", {"h100": 8}),
        ("gpu:4", {"gpu": 4}),
        ("gpu:A100:4(S:0,1),nvme:1", {"a100": 4}),
        ("gpu:a100:2(S:0),gpu:a100:2(S:1)", {"a100": 4}),
        ("(null)", {}),
    ],
)
def test_gpus_are_read_from_gres(text, gpus):
    assert facts.parse_gres(text) == gpus


def test_partitions_know_their_nodes_and_which_are_usable():
    big = deep().partition("big")
    assert [(n.count, n.usable) for n in big.nodes] == [(12, True), (4, False)]
    assert big.max_hours == 48 and big.gpus("a100") == 4 and big.gpus("h100") == 0
    assert deep().partition(None).name == "cpu"


def test_a_profile_that_fits_gets_no_fail():
    assert wrong(deep(), asking()) == {}


@pytest.mark.parametrize(
    "settings, name, hint",
    [
        ({"max_array_size": 1001}, "array size", "max_array_size: 501"),
        ({"partition": "bug"}, "partition bug", "sinfo -s"),
        ({"gpu": "h100"}, "gpus of big", "gpu: a100"),
        ({"gpus_per_node": 8}, "gpus of big", "gpus_per_node: 4"),
        ({"hours": 72}, "time limit of train", "hours: 48"),
        ({"memory_gib": 2000}, "memory of train", "memory_gib below 1007"),
        ({"account": "biology"}, "rights in big", "another account"),
        ({"debug": Place(partition="quick", hours=2)}, "time limit of debug", "hours: 0.5"),
        ({"cpu_partition": None}, "no such row", ""),
    ],
)
def test_a_setting_that_the_cluster_refuses_is_named_with_its_cure(settings, name, hint):
    found = wrong(deep(), asking(**settings))
    if name == "no such row":  # big has no CPU-only nodes, and serves all the same
        assert not found
    else:
        assert hint in found[name].next, found


def test_gpus_per_node_needs_cons_tres():
    old = deep(config={"SelectType": "select/cons_res"})
    assert wrong(old, asking())["gpu option"].next == "set gpu_flag: gres"
    assert not wrong(old, asking(gpu_flag="gres"))


@pytest.mark.parametrize(
    "config, text",
    [
        ({}, "SIGTERM"),
        ({"PreemptParameters": "youngest_first,send_user_signal"}, "USR2"),
        ({"SlurmctldParameters": "preempt_send_user_signal"}, "USR2"),  # 22.05
    ],
)
def test_the_signal_at_preemption_is_told_with_its_grace(config, text):
    row = rows(deep(config=config), asking(partition="cheap"))["signal at preemption"]
    assert text in row.found and "cheap REQUEUE with 60 s" in row.found
    assert row.state == "warn" and "save_every_steps" in row.next  # 60 s are less than the 120 s asked for
    assert rows(deep(config=config), asking(partition="cheap", signal_lead_s=30))["signal at preemption"].state == "ok"


def test_limits_of_accounts_and_qos_are_held_against_the_profile():
    known = deep(
        accounts=[
            {"Account": "lab", "QOS": "normal,high", "DefaultQOS": "normal", "MaxSubmit": "", "GrpSubmit": "400"}
        ],
        qos={"normal": {"MaxSubmitPU": "200", "GrpSubmit": "", "MaxWall": "1-00:00:00"}},
    )
    found = rows(known, asking(account="lab"))
    assert found["jobs in the queue"].state == "fail" and found["jobs in the queue"].next == "set max_submit: 200"
    assert not wrong(known, asking(account="lab", max_submit=200))
    assert wrong(known, asking(account="lab", qos="gold", max_submit=9))["qos"].next
    assert "yours: lab" in wrong(known, asking(account="other", max_submit=9))["account"].found


def test_clock_and_accounting_warn_with_their_numbers():
    found = rows(deep(skew_s=-42.0, accounting="Slurm accounting storage is disabled"), asking())
    assert "-42 s" in found["clock of the controller"].found and found["clock of the controller"].state == "warn"
    assert found["accounting"].state == "warn" and found["limits at submit"].state == "warn"


def test_a_draft_takes_the_gpu_partition_that_is_not_preemptible(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    path = tmp_path / "deep.yaml"
    path.write_text(draft.profile("deep", deep()))
    made = find_profile(str(path))
    assert (made.partition, made.cpu_partition, made.gpu, made.gpus_per_node) == ("big", "cpu", "a100", 4)
    assert (made.max_hours, made.max_array_size, made.cpus_per_gpu) == (48, 501, 16)
    assert (made.debug.partition, made.debug.max_hours) == ("quick", 0.5), "shortest with the same GPUs"
    assert made.root == tmp_path / "scratch" / "hpc" and made.cache.startswith("$SCRATCH")
    assert not wrong(deep(), made), "what we draft must pass our own checks"
    values = [
        li for li in path.read_text().splitlines() if ":" in li and not li.startswith((" ", "#", "about", "kind"))
    ]
    assert all("  # " in line for line in values if not line.startswith("stages")), "each value says where it is from"


def test_a_draft_of_a_cluster_without_gpus_has_none(tmp_path):
    only = {"cpu": deep().partitions["cpu"]}
    path = tmp_path / "cpus.yaml"
    path.write_text(draft.profile("cpus", Facts(facts.parse_config(CONFIG), only)))
    made = find_profile(str(path))
    assert made.node_gpus == 0 and made.partition == "cpu" and made.place("train").memory_gib <= 257000 / 1024


def changed(known, **settings):
    """The same cluster; settings: partition -> what scontrol says otherwise of it, or None for one without nodes."""
    found = dict(known.partitions)
    for name, values in settings.items():
        old = found[name]
        more = {"nodes": ()} if values is None else {"settings": {**old.settings, **values}}
        found[name] = dataclasses.replace(old, **more)
    return dataclasses.replace(known, partitions=found)


def test_a_preemptible_partition_is_not_the_main_one_even_with_more_gpus():
    few = changed(deep(), big={"PreemptMode": "REQUEUE"}, quick={"State": "DOWN"})
    assert draft.gpu_partition(few).name == "short", "2 x 2 V100 that stay, against 16 x 4 A100 that do not"
    assert draft.cpu_partition(few).name == "cpu"
    never = dataclasses.replace(few, config={**few.config, "PreemptType": "preempt/none"})
    assert draft.gpu_partition(never).name == "big", "nothing is preempted on this cluster"
    all_of_them = {p.name: {"PreemptMode": "REQUEUE"} for p in deep().partitions.values()}
    assert draft.gpu_partition(changed(deep(), **all_of_them)).name == "big", "the most GPUs where there is no choice"


def test_a_draft_leaves_out_partitions_that_are_down_or_without_nodes():
    down = {"State": "DOWN"}
    no_gpus = {"big": down, "cheap": down, "quick": down}
    assert "\npartition: cpu  # sinfo: no partition has GPUs; this is the default" in draft.profile(
        "x", changed(deep(), **no_gpus, short=down)
    )
    text = draft.profile("x", changed(deep(), **no_gpus, cpu=None))
    assert "\npartition: short " in text and "cpu_partition" not in text
    for cpu in (None, down):
        with pytest.raises(ClusterError, match="no partition that you may use"):
            draft.profile("x", changed(deep(), **no_gpus, short=None, cpu=cpu))


def test_init_hides_no_shipped_profile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClusterError, match='"slurm" already') as caught:
        draft.write("slurm")
    assert "found first" in caught.value.why and caught.value.where.endswith("slurm.yaml")
    assert not list(tmp_path.iterdir())


def test_init_overwrites_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "sbatch/profiles/mine.yaml"
    there.parent.mkdir(parents=True)
    there.write_text("kind: local\n")
    with pytest.raises(ClusterError, match="exists"):
        draft.write("mine")
    assert there.read_text() == "kind: local\n"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_profile_loads_and_renders(path, tmp_path, monkeypatch):
    for name in ("SCRATCH", "PSCRATCH", "WORK"):
        monkeypatch.setenv(name, str(tmp_path))
    profile = find_profile(str(path))
    assert profile.about
    if profile.kind == "local":
        return
    if "hardware only" not in path.read_text() and path.stem not in ("slurm", "h100x8", "h100x16"):
        assert "not run by us" in path.read_text() and "https://" in path.read_text(), "say where it is from"
    for kind in script.KINDS:
        gpus = profile.node_gpus if kind == "train" else 1 if kind == "generate" else 0
        resources = profile.resources(kind, {"gpus": gpus, "nodes": 1, "ranks": max(1, gpus) if kind == "train" else 1})
        chosen = script.parameters(kind, resources, profile, job_name="x.y.z", logs=tmp_path)
        text = script.sbatch_text(chosen, tmp_path, "srun true")
        assert "#SBATCH --mem=" in text and f"--nodes={resources['nodes']}" in text
        assert resources["cpus_per_rank"] * resources["ranks_per_node"] <= 300
        place = profile.place(kind)
        assert place.max_hours is None or place.hours <= place.max_hours
        assert not profile.node_memory_gib or place.memory_gib <= profile.node_memory_gib


def test_smoke_settings_lie_over_those_of_training():
    profile = asking(
        setup=["module load cuda"],
        stages={"train": Place(qos="long", setup=["module load gcc"])},
        debug=Place(partition="quick", hours=0.25, setup=["true"], sbatch={"reservation": "day"}),
    )
    made = doctor.trial(profile).place("train")
    assert (made.partition, made.qos, made.hours) == ("quick", "long", 0.25)
    assert made.setup == ["module load cuda", "module load gcc", "true"] and made.sbatch["reservation"] == "day"


def test_a_good_file_system_keeps_the_ledgers_promises(tmp_path):
    assert here.atomicity(tmp_path).state == "ok"
    assert [r.state for r in here.root_rows(tmp_path / "new")][:3] == ["ok", "ok", "ok"]


def test_a_file_system_without_hard_links_fails(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    row = here.atomicity(tmp_path)
    assert row.state == "fail" and "link: Operation not permitted" in row.found and "another file system" in row.next


def test_a_file_system_whose_rename_replaces_a_full_folder_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "rename", lambda self, target: None)
    assert "rename replaces a full folder" in here.atomicity(tmp_path).found


def test_a_root_that_cannot_be_written_fails(tmp_path):
    (tmp_path / "file").write_text("")
    row = next(here.root_rows(tmp_path / "file" / "root"))
    assert row.state == "fail" and "HPC_ROOT" in row.next


@pytest.fixture
def quota(tmp_path, monkeypatch):
    """quota(text): a `quota` command that says `text`; {device} is that of the file system under tmp_path."""

    def says(text):
        tool = tmp_path / "bin" / "quota"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\ncat <<'END'\n{text.format(device=room.mount(tmp_path).device)}\nEND\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")

    return says


def test_the_quota_of_the_roots_own_file_system_counts(tmp_path, quota):
    """Another file system may be full; `quota` lists all that the user has files on."""
    quota("srv:/full 999 0 1000 0 9 0 10 0\n{device} 1048576 0 2097152 0 50 0 60 0")
    found = {r.name: r for r in here.space(tmp_path)}
    assert found["free space"].state == "warn" and found["free space"].found.startswith("1.0 GiB free")
    assert found["free inodes"].state == "warn" and found["free inodes"].found.startswith("10 files")
    assert all("(quota)" in r.found and "hpc gc" in r.next for r in found.values())


def test_the_profiles_quota_counts_what_lies_under_the_root(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").write_bytes(b"x" * 2**20)
    asked = find_profile("local", roots=[str(tmp_path / "root")], quota_gib=1, quota_files=7)
    found = {r.name: r for r in here.space(asked.root, asked)}
    assert found["free space"].found.startswith("1023.0 MiB free") and "quota_gib 1 of" in found["free space"].found
    assert found["free inodes"].found.startswith("6 files can still be made") and found["free inodes"].state == "warn"


def test_the_jobs_python_is_run_with_its_setup_lines(tmp_path):
    good = here.environment(["data", "grade"], sys.executable, ["export A=1"])
    assert good.state == "ok" and "math-verify" in good.found
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/bash\nexec {sys.executable} -S -I "$@"\n')  # nothing installed, no PYTHONPATH
    bare.chmod(0o755)
    row = here.environment(["data"], str(bare), [])
    assert row.state == "fail" and "No module named" in row.found
    row = here.environment(["data"], sys.executable, ["module_that_is_no_command"])
    assert row.state == "fail" and "command not found" in row.found


def test_packages_that_a_stage_cannot_do_without_are_named(tmp_path):
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/bash\nexec {sys.executable} -S "$@"\n')  # nothing installed, our package by PYTHONPATH
    bare.chmod(0o755)
    row = here.environment(["data", "train"], str(bare), [])
    assert row.state == "warn" and "train needs torch, deepspeed, transformers" in row.found


def test_the_wandb_key_is_never_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "5" * 40)
    assert "5" * 8 not in str(here.wandb()) and here.wandb().state == "ok"
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "not logged in" in here.wandb().found
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n login user\n password " + "6" * 40 + "\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert "netrc" in here.wandb().found and "6" * 8 not in str(here.wandb())


def test_an_unreachable_hub_matters_only_where_it_is_needed(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert here.hub(needed=True).state == "warn" and "hpc fetch" in here.hub(needed=True).next
    assert here.hub(needed=False).state == "ok"


@pytest.mark.parametrize(
    "driver, wheel, state",
    [("12.4", "12.4", "ok"), ("13.0", "12.8", "ok"), ("12.2", "12.8", "warn"), ("11.8", "12.8", "fail"),
     ("12.4", "cpu", "fail"), ("", "12.8", "warn")],
)  # fmt: skip
def test_a_driver_must_carry_the_major_cuda_of_the_wheel(driver, wheel, state):
    assert probe.fits(driver, wheel).state == state


@pytest.mark.parametrize("version, cuda", [("2.9.0+cu128", "12.8"), ("2.13.0+cpu", "cpu"), ("2.5.1+cu118", "11.8")])
def test_the_wheels_cuda_is_read_from_its_version(monkeypatch, version, cuda):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert probe.wheel_cuda() == cuda


def test_gpus_are_counted_and_a_missing_variable_is_seen(monkeypatch):
    listing = "NVIDIA H100 80GB HBM3, 550.54.15, 81559 MiB\n" * 2
    assert probe.cards_text(listing) == "2 x NVIDIA H100 80GB HBM3 80 GiB, driver 550.54.15"
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    given, driver = probe.graphics(1)
    assert (given.state, driver.state) == ("warn", "warn") and "not set" in given.found
    assert list(probe.graphics(0)) == []


def test_rows_of_nodes_are_merged_where_they_agree(tmp_path):
    same, own = vars(Row("limits", "ok", "open files 4096")), vars(Row("node", "ok", "64 CPUs"))
    (tmp_path / "0.json").write_text(json.dumps({"host": "a", "rows": [own, same]}))
    (tmp_path / "1.json").write_text(json.dumps({"host": "b", "rows": [{**own, "found": "32 CPUs"}, same]}))
    assert [(r.name, r.found, r.where) for r in doctor.merged(tmp_path, 2)] == [
        ("node", "64 CPUs", "a"),
        ("node", "32 CPUs", "b"),
        ("limits", "open files 4096", "a, b"),
    ]


def test_a_probe_job_of_a_local_profile_is_refused(tmp_path):
    with pytest.raises(ClusterError, match="needs a Slurm cluster"):
        doctor.job(find_profile("local", roots=[str(tmp_path)]))


def test_a_root_that_cannot_be_written_is_a_row_and_no_job(tmp_path):
    (tmp_path / "file").touch()
    (row,) = doctor.job(find_profile("slurm", roots=[str(tmp_path / "file/root")]))
    assert (row.name, row.state) == ("job", "fail") and "Not a directory" in row.found and "HPC_ROOT" in row.next
    asked = find_profile("local", roots=[str(tmp_path / "file/root")], cache=str(tmp_path / "cache"))
    (row,) = build.rows(asked)
    assert (row.name, row.state) == ("build", "fail") and "HPC_ROOT" in row.next


def test_a_file_that_never_comes_is_an_error(tmp_path):
    with pytest.raises(OSError, match="was not seen"):
        probe.wait(tmp_path / "never", 0.1)
