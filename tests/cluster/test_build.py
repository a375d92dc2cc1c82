"""Kernels are built once for each architecture, and the locks of dead builds are cleared."""

import importlib.metadata
import os
import time
from pathlib import Path

import pytest

from hpc.cluster.profile import find_profile
from hpc.cluster.site import build, here
from hpc.errors import ClusterError


@pytest.fixture
def lock(tmp_path):
    """lock(age_s): a build folder with a lock, all of it last changed so long ago."""

    def make(age_s):
        folder = tmp_path / "torch_extensions" / "v" / "cpu_adam"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("lock", "build.ninja"):
            (folder / name).write_text("")
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - age_s,) * 2)
        return folder / "lock"

    return make


def test_a_stale_build_lock_is_removed(lock, tmp_path):
    path = lock(700)
    row = build.clear(tmp_path / "torch_extensions")
    assert not path.exists() and row.state == "ok" and "1 stale removed: v/cpu_adam" in row.found
    assert (path.parent / "build.ninja").exists(), "only the lock goes"


def test_a_young_build_lock_stays(lock, tmp_path):
    path = lock(60)
    row = build.clear(tmp_path / "torch_extensions")
    assert path.exists() and row.state == "warn" and "held: v/cpu_adam" in row.found


def test_an_old_lock_beside_fresh_objects_is_held_by_a_build_on_another_host(lock):
    path = lock(700)
    (path.parent / "cpu_adam.o").write_text("")
    assert not build.stale(path)


def test_an_old_lock_that_a_live_process_has_open_stays(lock):
    path = lock(700)
    with path.open():
        assert not build.stale(path)
    assert build.stale(path)


def test_torch_itself_holds_its_lock_open_while_it_builds(lock):
    """What `opened` relies on: torch's baton keeps the file descriptor until it releases."""
    baton = pytest.importorskip("torch.utils.file_baton").FileBaton
    path = lock(700)
    path.unlink()
    holder = baton(str(path))
    assert holder.try_acquire() and build.opened(path)
    holder.release()
    assert not path.exists()


def test_kernels_are_kept_by_cpu_model_and_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(here, "output", lambda command: "9.0\n9.0\n")
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Xeon\n")
    assert build.architecture(info).endswith("-genuineintel-6-143-sm90")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2")
    name = build.folder(tmp_path).name
    assert name.startswith("deepspeed-1.2-torch-1.2-")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "torch_extensions"))
    build.use()
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(tmp_path / "torch_extensions"), "nothing is built yet"
    (tmp_path / "torch_extensions" / name).mkdir(parents=True)
    build.use()
    assert os.environ["TORCH_EXTENSIONS_DIR"].endswith(name)


def test_without_a_cache_nothing_is_built_where_no_job_would_look(tmp_path):
    row = build.rows(find_profile("local", roots=[str(tmp_path)]))[0]
    assert row.state == "fail" and "set cache" in row.next
    row = build.rows(find_profile("local", roots=[str(tmp_path)], cache="$NO_SUCH_VARIABLE/cache"))[0]
    assert row.state == "fail" and "not set" in row.found


def test_a_build_that_takes_too_long_is_told_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BUILD_S", 0.3)
    asked = find_profile(
        "local", roots=[str(tmp_path / "root")], cache=str(tmp_path / "cache"), setup=["echo at it", "exec sleep 60"]
    )
    with pytest.raises(ClusterError, match=r"did not end within 0\.005 minutes") as caught:
        build.rows(asked)
    assert Path(caught.value.where).read_text() == "at it\n" and "--on local" in caught.value.next


@pytest.mark.proof
def test_kernels_are_really_built_once(tmp_path):
    pytest.importorskip("deepspeed")
    profile = find_profile("local", roots=[str(tmp_path / "root")], cache=str(tmp_path / "cache"))
    first = {r.name: r for r in build.rows(profile)}
    assert {r.state for r in first.values()} == {"ok"}, first
    assert "compiled in" in first["kernel CPUAdamBuilder"].found
    folder = next((tmp_path / "cache/torch_extensions").iterdir())
    assert (folder / "cpu_adam" / "cpu_adam.so").exists() and not list(folder.rglob("lock"))
    again = {r.name: r for r in build.rows(profile)}
    assert "was there" in again["kernel CPUAdamBuilder"].found
