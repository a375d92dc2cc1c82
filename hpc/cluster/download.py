"""One file of the hub into the cache, whole or not at all; a download that was killed goes on where it stopped.

huggingface_hub's own download starts a killed file again (each has a random temporary name); a shard has gigabytes, and
login nodes end long processes. So only the transport is the library's; the place in the cache is the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hpc import files
from hpc.errors import ClusterError
from hpc.plan.hub import Need


@dataclass(frozen=True)
class File:
    """A file of a repository. `etag` is its sha256 (large files) or its git hash: the name of its blob in the cache."""

    name: str
    bytes: int
    etag: str


@dataclass(frozen=True)
class Listing:
    """A repository at a commit, the files of it that are needed, and those that are not in the cache yet."""

    need: Need
    commit: str
    files: list[File]

    @property
    def absent(self) -> list[File]:
        """Files whose bytes are not all here."""
        return [f for f in self.files if not whole(self.place(f), f) and not whole(self.blob(f), f)]

    @property
    def bytes(self) -> int:
        """Bytes to download: what an earlier, killed fetch has brought is taken off. Equal files count once."""
        distinct = {f.etag: f for f in self.absent}.values()
        return sum(max(0, f.bytes - _held(self.partial(f))) for f in distinct)

    def place(self, file: File) -> Path:
        """Where jobs find it."""
        return self.need.folder / "snapshots" / self.commit / file.name

    def blob(self, file: File) -> Path:
        """Where its bytes lie."""
        return self.need.folder / "blobs" / file.etag

    def partial(self, file: File) -> Path:
        """Its bytes while they come. huggingface_hub's own names carry a random part, so the two never share one."""
        return self.blob(file).with_name(f"{file.etag}.hpc.incomplete")


def url(need: Need, commit: str, file: File) -> str:
    """The address of a file at a commit."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(need.name, file.name, repo_type=need.kind.removesuffix("s"), revision=commit)


def bring(one: Listing, file: File) -> None:
    """One file into the cache: its bytes under their hash, and a relative link from the snapshot.

    Raises:
        ClusterError: the bytes do not have the hash that the hub names.
        OSError: the cache cannot be written (the hub's own errors are OSErrors as well).
    """
    blob, place = one.blob(file), one.place(file)
    if whole(place, file):
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    if not whole(blob, file):
        with one.partial(file).open("ab") as partial:
            _lock(partial)
            if not whole(blob, file):
                _stream(one, file, partial)
                _check(one, file)
                os.replace(one.partial(file), blob)
            elif not _held(one.partial(file)):  # another fetch of the same file was faster
                one.partial(file).unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    if not whole(place, file):
        place.unlink(missing_ok=True)  # a link whose blob was purged
        place.symlink_to(os.path.relpath(blob, place.parent))


def whole(path: Path, file: File) -> bool:
    """Whether all bytes of a file are at `path`, by their number."""
    return path.is_file() and path.stat().st_size == file.bytes


def _stream(one: Listing, file: File, partial: IO[bytes]) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    partial.seek(0, os.SEEK_END)
    if partial.tell() > file.bytes:
        partial.truncate(0)
    if file.bytes and partial.tell() < file.bytes:
        http_get(
            url(one.need, one.commit, file),
            partial,  # type: ignore[arg-type]
            resume_size=partial.tell(),
            headers={**build_hf_headers(), "Accept-Encoding": "identity"},
            expected_size=file.bytes,
            displayed_filename=file.name,
        )
    partial.flush()
    os.fsync(partial.fileno())


def _check(one: Listing, file: File) -> None:
    """Hold the bytes against the hub's hash: sha256, or git's for small files."""
    path = one.partial(file)
    if len(file.etag) == 64:
        found = files.sha256_file(path)
    else:
        found = hashlib.sha1(b"blob %d\0" % path.stat().st_size + path.read_bytes()).hexdigest()
    if found != file.etag:
        path.unlink()
        raise ClusterError(
            f"{file.name} of {one.need.title} came damaged",
            where=str(path),
            why=f"its hash is {found[:12]}, the hub says {file.etag[:12]}; the bytes are thrown away",
            next="hpc fetch again",
        )


def _lock(partial: IO[bytes]) -> None:
    """One writer per file on this host. Where locks do nothing, two writers make a wrong hash, which is found."""
    try:
        fcntl.flock(partial, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return


def _held(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
