"""Forecasts as a terminal shows them: one block for all trainings that are predicted alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpc.files import canonical

SHOWN = 5
"""Blocks that are printed; --json has all of them."""


def lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """The forecasts of a plan document's train stages, and their sum."""
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for stage in plan["stages"]:
        if stage.get("forecast"):
            alike.setdefault(canonical(stage["forecast"]), []).append(stage)
    for stages in list(alike.values())[:SHOWN]:
        yield from block(stages)
    if len(alike) > SHOWN:
        yield f"... and {len(alike) - SHOWN} more forecasts (--json has them)"
    totals = plan["totals"]
    if totals.get("gpu_hours"):
        price = f", {_span(totals['usd'], '.0f')} USD" if totals.get("usd") else ""
        yield f"trainings to make: {_span(totals['gpu_hours'], '.1f')} GPU-hours{price} (predicted; 90 % intervals)"


def block(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One forecast, for the stages that share it."""
    first = stages[0]
    told = first["forecast"]
    more = f" and {len(stages) - 1} more" if len(stages) > 1 else ""
    yield f"forecast of train {first['key'][:8]} ({first['recipe']}){more}, predicted:"
    if "error" in told:
        yield from (f"  {line}" for line in (_verdict(told["error"]["what"]), told["error"]["why"]))
        yield f"  next: {told['error']['next']}"
        return
    yield f"  time    {_time(told)}"
    host = told["memory_gb_per_host"]["mid"]
    yield f"  memory  {_span(told['memory_gb_per_gpu'], '.1f')} GB per GPU, {host:.0f} GB per host"
    size = f"{told['checkpoint_gb']:.0f} GB a checkpoint"
    yield f"  disk    {size}, {_span(told['save_s'], '.0f')} s to save; {_saves(told)}"
    yield f"  layout  {', '.join(f'{k}={v}' for k, v in told['layout'].items())}"
    if beside := told.get("published"):
        yield (
            f"  beside  {beside['run']} took {_clock(beside['hours'])} on {beside['gpus']} GPUs; predicted for its "
            f"authors' settings ({beside['about']}): {_clocks(beside['predicted_hours'])}"
        )
    yield from (f"  - {reason}" for reason in told["reasons"])


def _verdict(what: str) -> str:
    return f"{'DOES NOT FIT' if 'does not fit' in what else 'CANNOT BE TRAINED'}: {what}"


def _time(told: Mapping[str, Any]) -> str:
    mfu = {k: 100 * v for k, v in told["mfu"].items()}
    speed = f"{_span(told['tokens_per_s'], ',.0f')} tokens/s, MFU {_span(mfu, '.0f')} %"
    if not told["steps"]:
        return f"{_span(told['step_s'], '.2f')} s a step, {speed}; how many steps is not known before the data are here"
    price = f", {_span(told['usd'], '.0f')} USD" if told["usd"] else ""
    whole = f"{_clocks(told['hours'])} with start, checkpoints and export"
    return (
        f"{_clocks(told['train_hours'])} for {told['steps']} steps of {_span(told['step_s'], '.2f')} s, {speed}; "
        f"{whole} = {_span(told['gpu_hours'], '.1f')} GPU-hours{price}"
    )


def _saves(told: Mapping[str, Any]) -> str:
    stop, every = told["preemption"], told["save_every_s"]
    warned = f"a preemption costs {_minutes(stop['warned_s'])} with a warning {told['lead_s']} s before"
    if not every:
        return f"none but at a warning: {warned}, else all of it"
    return f"one every {every / 60:.0f} min: {warned}, {_minutes(stop['unwarned_s'])} without, on average"


def _minutes(seconds: Mapping[str, float]) -> str:
    return _span({k: v / 60 for k, v in seconds.items()}, ".0f") + " min"


def _span(told: Mapping[str, float], form: str) -> str:
    return f"{told['mid']:{form}} ({told['low']:{form}} to {told['high']:{form}})"


def _clocks(hours: Mapping[str, float]) -> str:
    return f"{_clock(hours['mid'])} ({_clock(hours['low'])} to {_clock(hours['high'])})"


def _clock(hours: float) -> str:
    return f"{60 * hours:.1f} min" if hours < 1.5 else f"{hours:.1f} h"
