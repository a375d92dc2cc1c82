"""metrics.jsonl is the truth of a run's progress; Weights & Biases gets the same rows as a view.

One W&B run for each artifact that is made: its id is the stage and its key, so a requeued or resubmitted job, and
`hpc report X --to wandb`, go on with the same one. Every row carries its own `global_step`, which is the axis of all
charts: W&B counts its own steps anew in each process. Steps that a killed attempt had logged after its last checkpoint
are done again and stand there twice; metrics.jsonl has them once.
"""

from __future__ import annotations

import importlib.util
import json
import netrc
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hpc import files


def wandb_wanted() -> bool:
    """Whether rows also go to W&B: WANDB_MODE, WANDB_API_KEY or HPC_WANDB=1 is set, and wandb is installed."""
    if os.environ.get("WANDB_MODE") == "disabled":
        return False
    asked = any(os.environ.get(n) for n in ("WANDB_MODE", "WANDB_API_KEY")) or os.environ.get("HPC_WANDB") == "1"
    return asked and importlib.util.find_spec("wandb") is not None


class Tracker:
    """Writes one JSON object per line, each on disk when `log` returns; mirrors it to W&B where that is wanted.

    Args:
        path: the metrics.jsonl to write; an existing one is replaced.
        run_name, group, job_type: how W&B shows the run: its name, its sweep, its stage.
        config: settings to show in W&B.
        wandb: mirror rows to W&B; without a key, a login and WANDB_MODE into an offline folder.
        run_id: key of what is made; a later attempt of the same stage and key continues the run.
        tags: words to find the run by, such as the recipe and the signatures of the runs that it belongs to.
        folder: where W&B keeps its files; by default the folder above that of `path`, so that it is not published.
    """

    def __init__(
        self,
        path: Path,
        run_name: str,
        group: str,
        job_type: str,
        config: dict[str, Any],
        wandb: bool,
        *,
        run_id: str = "",
        tags: Sequence[str] = (),
        folder: Path | None = None,
    ) -> None:
        self.path = path
        self._run: Any = None
        files.write_text(path, "")
        if wandb:
            name = identity(job_type, run_id) if run_id else ""
            self._run = start(run_name, group, job_type, config, name, tags, folder or path.parent.parent)

    def carry(self, rows: Sequence[dict[str, Any]]) -> None:
        """Put rows of an earlier attempt at the head of the file; W&B has them already."""
        files.write_jsonl(self.path, list(rows))

    def log(self, row: dict[str, Any]) -> None:
        """Append a row; it has the key `step`."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
        seen = {"global_step": row["step"], **{k: v for k, v in row.items() if k != "step"}}
        self._show(lambda run: run.log(seen))

    def close(self) -> None:
        """Finish the W&B run."""
        self._show(lambda run: run.finish())
        self._run = None

    def _show(self, act: Callable[[Any], None]) -> None:
        """Do something with the W&B run. Its process dies of the TERM that a job gets: training must not."""
        if self._run is None:
            return
        try:
            act(self._run)
        except Exception as error:  # noqa: BLE001 - whatever happens to the view, metrics.jsonl has the row
            print(f"track: no W&B any more: {type(error).__name__}: {error}; {self.path} goes on", file=sys.stderr)
            self._run = None


def identity(stage: str, key: str) -> str:
    """W&B's id of an artifact: stable over restarts and resubmissions, and at most 64 characters."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", f"{stage}-{key}")[:64]


def mode() -> str:
    """W&B's mode: WANDB_MODE as it is set; else online with a key or a login, and offline without.

    HF_HUB_OFFLINE=1 is how jobs learn that their node has no network (`network` of the profile): offline, too.
    """
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    reachable = os.environ.get("HF_HUB_OFFLINE") != "1"
    return "online" if reachable and (os.environ.get("WANDB_API_KEY") or logged_in()) else "offline"


def host() -> str:
    """W&B's server: the host (and port) of WANDB_BASE_URL, or api.wandb.ai."""
    return urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc


def logged_in() -> bool:
    """Whether `wandb login` has left a key for the server in $NETRC or ~/.netrc. The key itself is not read out."""
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return host() in netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False


def project() -> str:
    """W&B's project: WANDB_PROJECT, or the package's name."""
    return os.environ.get("WANDB_PROJECT", "thinkscale")


def unsynced(folder: Path) -> bool:
    """Whether W&B's folder has offline runs that `wandb sync` has not sent; it marks those that it has."""
    return any(not synced(run).exists() for run in folder.glob("offline-run-*/*.wandb"))


def synced(run: Path) -> Path:
    """The mark that `wandb sync` leaves beside a .wandb file, and by which it passes it over the next time."""
    return run.with_suffix(".wandb.synced")


def titles(plan: dict[str, Any]) -> dict[str, str]:
    """Names for W&B: key -> RUN-STAGE[-TASK] for a stage of one run, RECIPE-STAGE[-TASK] for one that several share."""
    users = _users(plan)
    named = {k: u[0]["name"] for k, u in users.items() if len(u) == 1}
    return {
        s["key"]: "-".join(filter(None, [named.get(s["key"], s["recipe"]), s["stage"], s["task"]]))
        for s in plan["stages"]
    }


def tags(plan: dict[str, Any]) -> dict[str, list[str]]:
    """Tags for W&B: key -> the recipe, and the signatures of the runs that the stage belongs to (the first 16)."""
    users = _users(plan)
    return {
        s["key"]: [s["recipe"][:64], *sorted({run["signature"] for run in users.get(s["key"], [])})[:16]]
        for s in plan["stages"]
    }


def _users(plan: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The runs that a stage belongs to, by key."""
    users: dict[str, list[dict[str, Any]]] = {}
    for run in plan["runs"]:
        for keys in run["stages"].values():
            for key in keys.values() if isinstance(keys, dict) else [keys]:
                users.setdefault(key, []).append(run)
    return users


def start(
    run_name: str,
    group: str,
    job_type: str,
    config: dict[str, Any],
    name: str,
    words: Sequence[str],
    folder: Path,
) -> Any:
    """A W&B run, or None where W&B refuses (its words go to stderr).

    A run of the same id is continued. Offline there is nothing to continue: each process writes a folder of its own,
    with the same id and the wish to resume, and `wandb sync` sends those of one id in the order of their start.

    Args:
        name: the id, or empty for a new one of W&B's own.
        words: tags, beside those of WANDB_TAGS.
    """
    import wandb

    own = [t for t in os.environ.get("WANDB_TAGS", "").split(",") if t]
    try:
        run = wandb.init(
            project=project(),
            mode=mode(),
            dir=str(folder),
            name=run_name,
            group=group or None,
            job_type=job_type,
            config=config,
            id=name or None,
            resume="allow" if name else None,
            tags=list(dict.fromkeys([*words, *own])) or None,
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.errors.Error as error:
        print(f"track: no W&B for {run_name}: {error}; {folder} keeps metrics.jsonl", file=sys.stderr)
        return None
    run.define_metric("global_step")
    run.define_metric("*", step_metric="global_step")
    return run
