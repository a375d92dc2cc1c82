"""Everything that a plan reads from the hub, into the cache that its jobs will use. `hpc fetch X --on PROFILE`

First all repositories are asked for: commit, files, access. Then bytes and files are held against what is free. Only
then is anything downloaded. A download that was killed goes on where it stopped (huggingface_hub's own starts such a
file again), and every file is checked against the hash that the hub names before it gets its place in the cache.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hpc import files
from hpc.cluster import queue
from hpc.cluster.download import File, Listing, bring, url
from hpc.cluster.profile import Profile
from hpc.errors import ClusterError, PlanError
from hpc.plan import hub, room
from hpc.plan.hub import Need
from hpc.recipe import names

if TYPE_CHECKING:
    from huggingface_hub import HfApi

THREADS = 4
"""Files on their way at once."""
SPARE_BYTES = 1 << 30
"""What a download leaves free: a full file system breaks more than this command."""
SPARE_FILES = 1000
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
WEBSITE = "https://huggingface.co"
Say = Callable[[str], None]


def missing(plan: dict[str, Any], profile: Profile) -> list[str]:
    """What jobs of `plan` would not find without network, one sentence each; empty when it can be submitted.

    Milliseconds: it reads the cache that the profile's jobs use, and imports no library of the hub.
    """
    hub.use(profile.cache)
    return hub.missing(plan)


def refuse(plan: dict[str, Any], profile: Profile, said: str) -> None:
    """Stop a submit whose jobs would miss something; `said` are the words after `hpc fetch` that bring it.

    Raises:
        PlanError: with everything that is missing, and the command that brings it.
        ClusterError: nothing could be submitted here anyway: better said before gigabytes are fetched.
    """
    lost = missing(plan, profile)
    if not lost:
        return
    if profile.kind == "slurm" and not shutil.which("sbatch"):
        raise queue.no_slurm("sbatch")
    for job in plan["jobs"]:
        profile.resources(job["kind"], job["resources"])
    own = hub.files(plan)
    fetchable = len(lost) > len(own)
    commands = [f"hpc fetch {said} (where there is a network)"] if fetchable else []
    commands += [f"put {', '.join(own)} into HPC_DATA_DIR, or set `file:` in the recipe"] if own else []
    raise PlanError(
        f"{len(lost)} input(s) of the jobs are missing, so nothing is submitted",
        where=str(plan.get("path", "")),
        why="; ".join(lost) + ". Jobs run without network, and the commit of a repository is part of the keys",
        next="; ".join(commands),
    )


def fetch(
    plan: dict[str, Any],
    profile: Profile,
    *,
    dry_run: bool = False,
    agreed: Callable[[str], bool] = lambda _: True,
    say: Say = lambda text: print(text, file=sys.stderr, flush=True),
) -> dict[str, Any]:
    """Download what `plan` needs and the cache does not hold.

    Args:
        dry_run: ask the hub and count, download nothing.
        agreed: asked with the summary before anything is downloaded; False ends the command.
        say: gets lines for people.

    Returns:
        The JSON document of `hpc fetch --json`.

    Raises:
        ClusterError: no huggingface_hub, no network, no access (all repositories that refuse), too little room.
    """
    hub.use(profile.cache)
    needs = hub.needs(plan)
    lack = {need: hub.lack(need) for need in needs}
    for name in hub.files(plan):
        say(f"note: {name} is not on the hub: put it into HPC_DATA_DIR before you submit")
    listings = _listings([need for need in needs if lack[need]])
    there = room.of(
        names.hub_cache(), quota_gib=profile.quota_gib, quota_files=profile.quota_files, beside=profile.root
    )
    document = _document(needs, listings, there)
    say(summary(document))
    if not listings:
        return document
    _check_room(document, there)
    if not dry_run and agreed(f"download {room.size(document['bytes'])}?"):
        _download(listings, say)
        document["fetched"] = True
    return document


def summary(document: dict[str, Any]) -> str:
    """One line for each repository, and what it takes beside what is free."""
    rows = [
        f"  {r['name']} @ {r['commit'][:8]}: {r['files']} files, {room.size(r['bytes'])} to fetch of "
        f"{room.size(r['bytes_whole'])}"
        for r in document["repositories"]
    ]
    held = f"{document['held']} repositories are complete in {document['cache']}"
    if not rows:
        return held
    free = document["free"]
    need = f"to fetch: {room.size(document['bytes'])} in {document['new_files']} new files; free: {free['words']}"
    return "\n".join([held, *rows, need])


def _document(needs: list[Need], listings: list[Listing], there: room.Room) -> dict[str, Any]:
    rows = [
        {
            "name": one.need.title,
            "commit": one.commit,
            "use": one.need.use,
            "files": len(one.absent),
            "bytes": one.bytes,
            "bytes_whole": sum(f.bytes for f in one.files),
        }
        for one in listings
    ]
    return {
        "cache": str(names.hub_cache()),
        "held": len(needs) - len(listings),
        "repositories": rows,
        "bytes": sum(one.bytes for one in listings),
        "new_files": sum(2 * len(one.absent) + 6 for one in listings),  # a blob and a link each; folders, ref, list
        "free": {"bytes": there.bytes, "files": there.files, "words": str(there)},
        "fetched": False,
    }


def _check_room(document: dict[str, Any], there: room.Room) -> None:
    """Raise ClusterError, with the numbers, where bytes or files do not fit."""
    asked = {"bytes": document["bytes"], "files": document["new_files"]}
    short = []
    if asked["bytes"] and there.bytes is not None and asked["bytes"] + SPARE_BYTES > there.bytes:
        short.append(
            f"{room.size(asked['bytes'])} and {room.size(SPARE_BYTES)} to spare are needed, "
            f"{room.size(there.bytes)} are free ({there.bytes_by})"
        )
    if asked["bytes"] and there.files is not None and asked["files"] + SPARE_FILES > there.files:
        short.append(
            f"{asked['files']:,} new files and {SPARE_FILES:,} to spare are needed, "
            f"{there.files:,} are free ({there.files_by})"
        )
    if short:
        raise ClusterError(
            "there is too little room to fetch this; nothing was downloaded",
            where=document["cache"],
            why="; ".join(short),
            next="make room (hpc gc, or hf cache prune), or set the profile's `cache` to a folder on a larger disk",
        )


def _listings(needs: list[Need]) -> list[Listing]:
    """Ask the hub for every repository before any is downloaded.

    Raises:
        ClusterError: all repositories that refuse or are not there, in one message.
    """
    if not needs:
        return []
    api = _api()
    found: list[Listing] = []
    refused: list[tuple[str, str]] = []
    for need in needs:
        try:
            with _reached():
                found.append(_listing(api, need))
        except _Refused as error:
            refused.append((error.what, error.next))
    if refused:
        raise ClusterError(
            f"{len(refused)} of {len(needs)} repositories cannot be read; nothing was downloaded",
            where=api.endpoint,
            why="; ".join(what for what, _ in refused),
            next="; ".join(dict.fromkeys(each for _, each in refused)) + "; then hpc fetch again",
        )
    return found


class _Refused(Exception):
    """The hub will not give a repository to this user."""

    def __init__(self, what: str, next: str) -> None:
        super().__init__(what)
        self.what, self.next = what, next


def _listing(api: HfApi, need: Need) -> Listing:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"{WEBSITE}/{need.title}"
    login = "log in with `hf auth login` (or export HF_TOKEN)"
    asked = need.snapshot.name if need.snapshot else need.revision
    try:
        info: Any = api.repo_info(
            need.name, repo_type=need.kind.removesuffix("s"), revision=asked, files_metadata=True, timeout=60
        )
        listed = [_file(s) for s in info.siblings or []]
        kept = set(hub.wanted(need.use, [f.name for f in listed]))
        chosen = [f for f in listed if f.name in kept]
        if not chosen:
            raise _Refused(f"{need.title} has no file of a {need.use}", f"look at {page}, and name another repository")
        _try_access(api, need, info.sha, min(chosen, key=lambda f: f.bytes))
    except GatedRepoError:
        raise _Refused(
            f"{need.title} is gated: its licence has to be accepted", f"accept the licence at {page} and {login}"
        ) from None
    except RevisionNotFoundError:
        raise _Refused(f"{need.title} has no revision {asked}", f"choose one at {page}/commits/main") from None
    except RepositoryNotFoundError:
        raise _Refused(
            f"{need.title} is not there, or private", f"correct the name, or {login} with access to {page}"
        ) from None
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise _Refused(f"{need.title} refuses this token", f"{login} with access to {page}") from None
        raise
    return Listing(need, str(info.sha), chosen)


def _file(sibling: Any) -> File:
    large = sibling.lfs
    return File(
        sibling.rfilename, int(large.size if large else sibling.size or 0), large.sha256 if large else sibling.blob_id
    )


def _try_access(api: HfApi, need: Need, commit: str, file: File) -> None:
    """Ask for one file as a download would: the listing of a gated repository is public, its files are not."""
    from huggingface_hub import get_hf_file_metadata

    get_hf_file_metadata(url(need, commit, file), token=api.token, endpoint=api.endpoint, timeout=60)


def _download(listings: list[Listing], say: Say) -> None:
    for one in listings:
        say(f"{one.need.title} @ {one.commit[:8]}")
        _name_commit(one)
        pool = ThreadPoolExecutor(THREADS)
        try:
            with _reached():
                list(pool.map(bring, [one] * len(one.files), one.files))
        except KeyboardInterrupt:
            say("stopped; hpc fetch goes on where it stopped")
            os._exit(130)  # threads would go on to the end of their files; every state on disk can be gone on from
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        listed = {f.name: f.bytes for f in one.files}
        files.write_json(hub.record(one.need, one.commit), {"use": one.need.use, "files": listed})


def _name_commit(one: Listing) -> None:
    """refs/main -> the commit, before the first byte: keys are stable from here, and a restart stays at this commit."""
    if one.need.revision != one.commit:
        files.write_text(one.need.folder / "refs" / one.need.revision, one.commit)


def _api() -> HfApi:
    """The hub's client.

    Raises:
        ClusterError: it is not installed, or told to stay offline.
    """
    try:
        from huggingface_hub import HfApi, constants
    except ImportError:
        raise ClusterError(
            "huggingface_hub is not installed in this environment",
            where=sys.executable,
            next="pip install huggingface_hub",
        ) from None
    if constants.HF_HUB_OFFLINE:
        raise ClusterError(
            "this shell tells the hub's libraries to stay offline",
            where="environment",
            why="HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set; the jobs get it by themselves",
            next="unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE, and hpc fetch again",
        )
    return HfApi()


@contextmanager
def _reached() -> Iterator[None]:
    """Errors on the way to the hub, or into the cache, in words."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            raise _no_write(error) from None
        lines = str(error).strip().splitlines()
        raise ClusterError(
            "the hub cannot be reached, or failed",
            where=constants.ENDPOINT,
            why=f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}",
            next="run hpc fetch on a login or transfer node with network (HF_ENDPOINT, https_proxy where the site says "
            "so); said again, it goes on where it stopped",
        ) from None


def _no_write(error: OSError) -> ClusterError:
    return ClusterError(
        "the cache cannot be written",
        where=str(error.filename or names.hub_cache()),
        why=error.strerror or str(error),
        next="make room, or set the profile's `cache` to a folder that you can write to; hpc fetch then goes on",
    )
