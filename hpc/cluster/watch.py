"""A status that draws itself anew until nothing is left to run. `hpc status X --watch`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from hpc.cluster import text
from hpc.cluster.cover import Plan
from hpc.cluster.profile import Profile
from hpc.cluster.status import follow

EVERY_S = 30.0
"""Seconds between two looks at the queue, at most: more often helps nobody and costs the controller."""
FIRST_S = {"local": 0.5, "slurm": 2.0}
"""Seconds between the first looks, by kind of profile; the pause grows from there."""


def watch(plan: Plan, profile: Profile, console: Console, *, every_s: float = 0.0) -> dict[str, Any]:
    """Show the status until nothing runs or waits, or until Ctrl-C. Returns the last status.

    A terminal is redrawn; anything else gets a line whenever a count changes.

    Args:
        every_s: seconds between two looks; 0 begins with FIRST_S and grows to EVERY_S.

    Raises:
        ClusterError: Slurm does not answer.
    """
    first_s = every_s or FIRST_S[profile.kind]
    states = follow(plan, profile, first_s=first_s, every_s=every_s or EVERY_S)
    last: dict[str, Any] = {}
    try:
        if not console.is_terminal:
            show = changes(console.print)
            for last in states:
                show(last)
            return last
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            for last in states:
                note = Text(f"{time.strftime('%H:%M:%S')}, Ctrl-C leaves; the jobs go on", style="dim")
                live.update(Group(text.screen(last), note), refresh=True)
    except KeyboardInterrupt:
        pass  # the user has seen enough
    return last


def wait(
    plan: Plan, profile: Profile, seen: Callable[[dict[str, Any]], None], *, every_s: float = 0.0
) -> dict[str, Any]:
    """Wait until nothing runs or waits; `seen` gets every status. Returns the last.

    Raises:
        ClusterError: Slurm does not answer.
    """
    last: dict[str, Any] = {}
    for last in follow(plan, profile, first_s=every_s or FIRST_S[profile.kind], every_s=every_s or EVERY_S):
        seen(last)
    return last


def changes(write: Callable[[str], object]) -> Callable[[dict[str, Any]], None]:
    """A function that writes a status as one line, if that line is another than the last."""
    before = ""

    def seen(state: dict[str, Any]) -> None:
        nonlocal before
        line = text.summary(state)
        if line != before:
            write(line)
        before = line

    return seen
