"""The plots of a run's report.

Up to :data:`PLOTTED` samples have a row each. Of more, those rows are given to the ones that one
looks for, and all samples together are shown by distributions: a page of ten thousand samples is
hardly larger than one of sixty.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from datetime import UTC, datetime
from itertools import pairwise
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from aws_jobs.report_page import Plot, duration, mib, percent, plot_text, usd

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aws_jobs.run_report import RunSummary, SampleRun
    from aws_jobs.trace import SampleAttempt

# Samples that have a row of their own in a plot.
PLOTTED = 60

# Colours that stay apart for those who see no red or green, on light ground and on dark.
_WAITING, _RAN, _FAILED, _MARK = "#a7afbb", "#3d85c6", "#d1413a", "#e69f00"
_STAGES = ("#8c96a8", "#3d85c6", "#e69f00", "#3aa17e", "#b07cc6", "#c96a3b", "#5ab4d6", "#97a33b")
_GRID = "rgba(128, 136, 150, 0.25)"

_ROW_PIXELS = 26
_BINS = 20
# Points of the curve of waiting and running jobs.
_MOMENTS = 400


def figures_of(run: RunSummary) -> list[Plot]:
    """Return the plots that there is something to show in."""
    shown = chosen(run.samples)
    of_all = "" if len(shown) == len(run.samples) else _partly(len(shown), len(run.samples))
    plots: list[Plot | None] = [_timeline(shown, of_all)]
    if of_all:
        plots += [_at_once(run), _stage_spread(run), _memory_spread(run)]
    else:
        plots += [_stages(shown), _memory(shown)]
    plots.append(_costs(run, shown, of_all))
    return [plot for plot in plots if plot is not None]


def chosen(samples: Sequence[SampleRun], limit: int = PLOTTED) -> list[SampleRun]:
    """Return the samples that a row is spent on: failed, retried, slowest; in the given order."""
    if len(samples) <= limit:
        return list(samples)

    def interest(sample: SampleRun) -> tuple[bool, int, float]:
        seconds = sum(attempt.run_seconds or 0 for attempt in sample.attempts)
        return (sample.failure is not None, len(sample.attempts), seconds)

    first = {id(sample) for sample in sorted(samples, key=interest, reverse=True)[:limit]}
    return [sample for sample in samples if id(sample) in first]


def jobs_at_once(
    attempts: Iterable[SampleAttempt], moments: int = _MOMENTS
) -> tuple[list[float], list[int], list[int]]:
    """Return how many jobs waited and how many ran, at evenly spaced moments.

    :returns: seconds since 1970, waiting, running.
    """
    queued, started, left, stopped = [], [], [], []
    for attempt in attempts:
        if attempt.waited_from is None or attempt.stopped_at is None:
            continue
        queued.append(attempt.waited_from)
        left.append(attempt.started_at or attempt.stopped_at)
        if attempt.started_at is not None:
            started.append(attempt.started_at)
            stopped.append(attempt.stopped_at)
    if not queued:
        return [], [], []
    for times in (queued, started, left, stopped):
        times.sort()
    first, last = queued[0], max(left[-1], *stopped[-1:])
    times = [first + (last - first) * step / (moments - 1) for step in range(moments)]
    waiting = [bisect_right(queued, time) - bisect_right(left, time) for time in times]
    running = [bisect_right(started, time) - bisect_right(stopped, time) for time in times]
    return times, waiting, running


def _timeline(samples: Sequence[SampleRun], of_all: str) -> Plot | None:
    rows = [sample for sample in samples if sample.attempts]
    bars: dict[str, list[tuple[str, float, float, str, str]]] = defaultdict(list)
    for sample in rows:
        for each in sample.attempts:
            for kind, begin, end in _spans(each):
                label = "" if kind == "waiting" else _attempt_label(each)
                bars[kind].append((_row(sample), begin, end, label, _attempt_hover(each)))
    if not bars:
        return None
    figure = base_figure(len(rows), margin_top=34)
    looks = {"waiting": _WAITING, "succeeded": _RAN, "failed": _FAILED}
    for kind, colour in looks.items():
        if not bars[kind]:
            continue
        figure.add_bar(
            orientation="h",
            name=kind,
            y=[bar[0] for bar in bars[kind]],
            base=[_moment(bar[1]) for bar in bars[kind]],
            x=[(bar[2] - bar[1]) * 1000 for bar in bars[kind]],
            text=[bar[3] for bar in bars[kind]],
            customdata=[bar[4] for bar in bars[kind]],
            hovertemplate="%{customdata}<extra></extra>",
            textposition="inside",
            insidetextanchor="middle",
            constraintext="inside",
            textangle=0,
            textfont={"color": "white"},
            marker={
                "color": colour,
                "pattern": {"shape": "/" if kind == "failed" else "", "solidity": 0.15},
            },
            width=0.45 if kind == "waiting" else 0.72,
        )
    unstarted = [each for sample in rows for each in sample.attempts if _never_started(each)]
    if unstarted:
        figure.add_scatter(
            mode="markers",
            name="ended before it started",
            y=[plot_text(each.sample) for each in unstarted],
            x=[_moment(each.stopped_at or 0) for each in unstarted],
            customdata=[_attempt_hover(each) for each in unstarted],
            hovertemplate="%{customdata}<extra></extra>",
            marker={"symbol": "x", "size": 9, "color": _FAILED},
        )
    figure.update_layout(barmode="overlay", xaxis={"type": "date", "title": "UTC"})
    _name_rows(figure, rows)
    failed = len(bars["failed"]) + len(unstarted)
    return Plot(
        "timeline",
        figure,
        f"Timeline of {len(rows)} samples: when each attempt waited and ran; "
        f"{failed} attempts failed.",
        of_all,
    )


def _stages(samples: Sequence[SampleRun]) -> Plot | None:
    rows = [sample for sample in samples if sample.result and sample.result.stages]
    if not rows:
        return None
    figure = base_figure(len(rows), margin_top=34)
    for place, name in enumerate(stage_names(rows)):
        seconds = [_stage_seconds(sample, name) for sample in rows]
        figure.add_bar(
            orientation="h",
            name=plot_text(name),
            y=[_row(sample) for sample in rows],
            x=seconds,
            customdata=[f"{plot_text(name)}: {duration(each)}" for each in seconds],
            hovertemplate="%{y}<br>%{customdata}<extra></extra>",
            marker={"color": _STAGES[place % len(_STAGES)]},
        )
    figure.update_layout(barmode="stack", xaxis={"title": "seconds"})
    _name_rows(figure, rows)
    return Plot(
        "stages",
        figure,
        f"Seconds of each stage for {len(rows)} samples, stacked.",
        "Stages that an earlier attempt had done are left out.",
    )


def _memory(samples: Sequence[SampleRun]) -> Plot | None:
    rows = [sample for sample in samples if sample.peak_memory_mib]
    if not rows:
        return None
    requests = [sample.memory_mib for sample in rows]
    peaks = [sample.peak_memory_mib or 0 for sample in rows]
    scale, unit = (1024, "GiB") if max([*requests, *peaks]) >= 10_240 else (1, "MiB")
    figure = base_figure(len(rows), margin_top=34)
    hover = [
        f"peak {mib(peak)} of {mib(request)}: {percent(peak / request if request else None)}"
        for peak, request in zip(peaks, requests, strict=True)
    ]
    figure.add_bar(
        orientation="h",
        name="peak",
        y=[_row(sample) for sample in rows],
        x=[peak / scale for peak in peaks],
        customdata=hover,
        hovertemplate="%{y}<br>%{customdata}<extra></extra>",
        marker={"color": _RAN},
    )
    figure.add_scatter(
        mode="markers",
        name="request",
        y=[_row(sample) for sample in rows],
        x=[request / scale for request in requests],
        customdata=hover,
        hovertemplate="%{y}<br>%{customdata}<extra></extra>",
        marker={
            "symbol": "line-ns-open",
            "size": 15,
            "line": {"width": 3},
            "color": _MARK,
        },
    )
    figure.update_layout(xaxis={"title": unit, "rangemode": "tozero"})
    _name_rows(figure, rows)
    return Plot(
        "memory",
        figure,
        f"Peak memory of {len(rows)} samples beside what their last attempt asked for.",
    )


def _costs(run: RunSummary, samples: Sequence[SampleRun], of_all: str) -> Plot | None:
    rows = [sample for sample in samples if sample.attempts]
    if not any(run.cost(rows)):
        return None
    figure = base_figure(len(rows), margin_top=34)
    for place, (name, colour) in enumerate(
        {"succeeded": _RAN, "lost to failed attempts": _FAILED}.items()
    ):
        dollars = [run.cost([sample])[place] for sample in rows]
        figure.add_bar(
            orientation="h",
            name=name,
            y=[_row(sample) for sample in rows],
            x=dollars,
            customdata=[f"{name}: {usd(each)}" for each in dollars],
            hovertemplate="%{y}<br>%{customdata}<extra></extra>",
            marker={
                "color": colour,
                "pattern": {"shape": "/" if place else "", "solidity": 0.15},
            },
        )
    figure.update_layout(
        barmode="stack", xaxis={"title": "US dollars, estimated", "exponentformat": "none"}
    )
    _name_rows(figure, rows)
    good, lost = run.cost(rows)
    return Plot(
        "cost",
        figure,
        f"Estimated cost of {len(rows)} samples: {usd(good)} for attempts that succeeded, "
        f"{usd(lost)} lost to attempts that failed.",
        of_all,
    )


def _at_once(run: RunSummary) -> Plot | None:
    times, waiting, running = jobs_at_once(run.attempts)
    if not times:
        return None
    figure = base_figure(0, height=300)
    for name, counts, colour in (("running", running, _RAN), ("waiting", waiting, _WAITING)):
        figure.add_scatter(
            mode="lines",
            name=name,
            x=[_moment(time) for time in times],
            y=counts,
            stackgroup="jobs",
            line={"width": 1, "color": colour},
        )
    figure.update_layout(xaxis={"type": "date", "title": "UTC"}, yaxis={"title": "jobs"})
    return Plot(
        "at-once",
        figure,
        f"Jobs over time: at most {max(running):,} ran and {max(waiting):,} waited at once.",
        "All samples together.",
    )


def _stage_spread(run: RunSummary) -> Plot | None:
    names = stage_names(run.samples)
    figure = base_figure(len(names) + 1)
    for place, name in enumerate(names):
        seconds = sorted(s for each in run.samples if (s := _stage_seconds(each, name)) is not None)
        if not seconds:
            continue
        low, middle, high = quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
        figure.add_box(
            orientation="h",
            name=plot_text(name),
            y=[plot_text(name)],
            lowerfence=[seconds[0]],
            q1=[low],
            median=[middle],
            q3=[high],
            upperfence=[seconds[-1]],
            marker={"color": _STAGES[place % len(_STAGES)]},
            showlegend=False,
        )
    if not figure.data:
        return None
    figure.update_layout(xaxis={"title": "seconds", "rangemode": "tozero"})
    return Plot(
        "stages",
        figure,
        "Seconds of each stage over all samples: least, quartiles, most.",
        "All samples: least, quartiles and most.",
    )


def _memory_spread(run: RunSummary) -> Plot | None:
    shares = [
        min(1.0, (sample.peak_memory_mib or 0) / sample.memory_mib)
        for sample in run.samples
        if sample.peak_memory_mib and sample.memory_mib
    ]
    if not shares:
        return None
    edges = [place / _BINS for place in range(_BINS + 1)]
    shares.sort()
    below = [bisect_right(shares, edge) for edge in edges]
    counts = [above - under for under, above in pairwise([0, *below[1:]])]
    figure = base_figure(0, height=300)
    figure.add_bar(
        x=[100 * (low + high) / 2 for low, high in pairwise(edges)],
        y=counts,
        marker={"color": _RAN},
        hovertemplate="%{y:,} samples around %{x} %<extra></extra>",
        showlegend=False,
    )
    figure.update_layout(
        bargap=0.06,
        xaxis={"title": "peak memory, % of the request", "range": [0, 100]},
        yaxis={"title": "samples"},
    )
    return Plot(
        "memory",
        figure,
        f"How much of the requested memory {len(shares):,} samples used at their peak.",
        "All samples.",
    )


def stage_names(samples: Iterable[SampleRun]) -> list[str]:
    """Return the stages of all samples, in the order in which they ran."""
    return list(
        dict.fromkeys(
            stage.name for sample in samples if sample.result for stage in sample.result.stages
        )
    )


def _stage_seconds(sample: SampleRun, name: str) -> float | None:
    stages = sample.result.stages if sample.result else ()
    found = [stage.seconds for stage in stages if stage.name == name and not stage.skipped]
    return sum(found) if found else None


def _spans(attempt: SampleAttempt) -> list[tuple[str, float, float]]:
    """Return what there is to draw of an attempt: what it is, from, to."""
    queued, started, stopped = attempt.waited_from, attempt.started_at, attempt.stopped_at
    spans = []
    left = started or stopped
    if queued is not None and left is not None:
        spans.append(("waiting", queued, left))
    if started is not None and stopped is not None:
        spans.append(("succeeded" if attempt.succeeded else "failed", started, stopped))
    return spans


def _never_started(attempt: SampleAttempt) -> bool:
    return attempt.started_at is None and attempt.stopped_at is not None


def _attempt_label(attempt: SampleAttempt) -> str:
    return plot_text(f"{attempt.number} {attempt.failure or ''}".strip())


def _attempt_hover(attempt: SampleAttempt) -> str:
    lines = [
        f"<b>{plot_text(attempt.sample)}</b>, attempt {attempt.number}: "
        f"{plot_text(attempt.failure or attempt.outcome)}",
        f"waited {duration(attempt.queued_seconds)}, ran {duration(attempt.run_seconds)}",
        f"{attempt.vcpus or 0:g} vCPU, {mib(attempt.memory_mib)}, {plot_text(attempt.queue)}",
    ]
    if attempt.reason and not attempt.succeeded:
        lines.append(plot_text(attempt.reason, limit=120))
    return "<br>".join(lines)


def _row(sample: SampleRun) -> str:
    return plot_text(sample.sample)


def _name_rows(figure: Any, rows: Sequence[SampleRun]) -> None:
    """Give each sample its row, the first one on top, with a name that fits."""
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=[_row(sample) for sample in rows],
        autorange="reversed",
        tickmode="array",
        tickvals=[_row(sample) for sample in rows],
        ticktext=[plot_text(sample.sample, limit=28) for sample in rows],
        showgrid=False,
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _partly(shown: int, of: int) -> str:
    return (
        f"{shown} of {of:,} samples: failed ones first, then the most attempts, then the slowest."
    )


def base_figure(rows: int, *, height: int | None = None, margin_top: int = 12) -> Any:
    """Return an empty figure in the reports' style, high enough for so many rows."""
    import plotly.graph_objects as go  # type: ignore[import-untyped]

    axis: dict[str, Any] = {
        "gridcolor": _GRID,
        "zeroline": False,
        "automargin": True,
        "title": {"standoff": 8},
    }
    return go.Figure(
        layout={
            "template": None,
            "height": height or _ROW_PIXELS * rows + 70 + margin_top,
            "margin": {"l": 8, "r": 8, "t": margin_top, "b": 46},
            "paper_bgcolor": "rgba(0, 0, 0, 0)",
            "plot_bgcolor": "rgba(0, 0, 0, 0)",
            "font": {"family": "system-ui, sans-serif", "size": 12.5, "color": "#6b7280"},
            "hoverlabel": {"align": "left"},
            "modebar": {"bgcolor": "rgba(0, 0, 0, 0)"},
            "legend": {
                "orientation": "h",
                "traceorder": "normal",
                "x": 0,
                "y": 1,
                "yanchor": "bottom",
                "xanchor": "left",
            },
            "bargap": 0.3,
            "xaxis": axis,
            "yaxis": axis,
        }
    )
