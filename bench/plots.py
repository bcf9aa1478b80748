"""A run as pictures: bars per case against the copy's line, and time against size; knows records and matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from cases import CHANNEL_SWEEPS, OPS, SIZE_SWEEPS
from records import Record, Run, pick
from report import TITLES, label, labels
from summary import OURS

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

_COPY = "#444444"
_FRESH_ALPHA = 0.5  # a fresh output has its peer's colour, paler

Style = Mapping[str, tuple[str, float]]


def _style(records: Sequence[Record]) -> Style:
    """Return colour and opacity of every column: a peer keeps its colour in every picture."""
    peers = sorted({r.peer for r in records}, key=lambda name: (name != OURS, name))
    colours = {peer: "#0b5394" if peer == OURS else f"C{i % 10}" for i, peer in enumerate(peers)}
    return {label(r): (colours[r.peer], 1.0 if label(r) == r.peer else _FRESH_ALPHA) for r in records}


def draw(run: Run, folder: Path) -> list[Path]:
    """Write every picture the records allow and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, style = [], _style(run.records)
    for dtype in dict.fromkeys(r.dtype for r in run.records):
        some = pick(run.records, dtype=dtype)
        for op in OPS:
            cases = [r for r in pick(some, op=op) if not r.group.startswith("sweep")]
            if cases:
                paths.append(_bars(cases, f"{TITLES[op]}, {dtype}", folder / f"bars-{op}-{dtype}.png", style))
        for groups, what in ((SIZE_SWEEPS, "size"), (CHANNEL_SWEEPS, "channels")):
            swept = [r for r in some if r.group in groups]
            if swept:
                paths.append(_sweep(swept, groups, what, folder / f"{what}-{dtype}.png", style))
    return paths


def _bars(records: Sequence[Record], title: str, path: Path, style: Style) -> Path:
    groups = list(dict.fromkeys(r.group for r in records))
    columns = labels(records)
    figure, panels = plt.subplots(len(groups), 1, figsize=(15, 3.6 * len(groups)), squeeze=False, layout="constrained")
    for panel, group in zip(panels[:, 0], groups, strict=True):
        _bar_panel(panel, pick(records, group=group), columns, style)
        panel.set_title(group, loc="left", fontsize=10)
    # From the columns, not from a panel: one without a column's bars would show it in another colour.
    keys = [Patch(color=style[column][0], alpha=style[column][1], label=column) for column in columns]
    lines = [Line2D([], [], color=_COPY, label="the copy"), Line2D([], [], color=_COPY, linestyle=":", label="bound")]
    panels[0, 0].legend(
        handles=[*keys, *lines], ncols=6, fontsize=8, loc="upper left", bbox_to_anchor=(0, 1.45), frameon=False
    )
    figure.suptitle(f"{title}: time in units of the copy y = a*x (less is better)")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _bar_panel(panel: Any, records: Sequence[Record], columns: Sequence[str], style: Style) -> None:
    cases = list(dict.fromkeys(r.case for r in records))
    width = 0.85 / len(columns)
    for i, column in enumerate(columns):
        found = [(cases.index(r.case) + i * width, r.copies) for r in records if label(r) == column]
        places, heights = [p for p, _ in found], [h for _, h in found]
        colour, alpha = style[column]
        panel.bar(places, heights, width, label=column, color=colour, alpha=alpha, align="edge")
    for i, case in enumerate(cases):
        limit = pick(records, case=case)[0].bound
        panel.hlines(limit, i, i + 0.85, color=_COPY, linestyle=":", label="bound" if i == 0 else None)
    panel.axhline(1, color=_COPY, linewidth=1, label="the copy")
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_xticks([i + 0.42 for i in range(len(cases))], cases, rotation=20, ha="right", fontsize=8)
    panel.set_ylabel("copies")


def _sweep(records: Sequence[Record], groups: Sequence[str], what: str, path: Path, style: Style) -> Path:
    figure, panels = plt.subplots(1, 2, figsize=(14, 5.5), sharey=True, squeeze=False, layout="constrained")
    for panel, group in zip(panels[0], groups, strict=True):
        some = pick(records, group=group)
        for column in labels(records):
            line = [(_abscissa(r, what), r.median / 1e3) for r in some if label(r) == column]
            if line:
                colour, alpha = style[column]
                panel.plot(*zip(*line, strict=True), marker="o", markersize=3, label=column, color=colour, alpha=alpha)
        copies = sorted({(_abscissa(r, what), r.copy / 1e3) for r in some})
        panel.plot(*zip(*copies, strict=True), color=_COPY, linestyle="--", label="the copy")
        _log_axes(panel, {a for a, _ in copies}, what)
        panel.set_title("channels first" if group.endswith("first") else "channels last")
    panels[0, 0].set_ylabel("one training call, microseconds")
    panels[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _abscissa(record: Record, what: str) -> int:
    channels = record.shape[-1] if record.layout == "last" else record.shape[1]
    return record.nbytes if what == "size" else channels


def _log_axes(panel: Any, ticks: Iterable[int], what: str) -> None:
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    places = sorted(ticks)
    panel.set_xticks(places, [_bytes(p) if what == "size" else str(p) for p in places], fontsize=7, rotation=30)
    panel.set_xlabel("bytes of x" if what == "size" else "channels, at the same bytes")
    panel.grid(alpha=0.3)


def _bytes(value: int) -> str:
    for power, unit in ((30, "G"), (20, "M"), (10, "K")):
        if value >= 1 << power:
            return f"{value >> power}{unit}"
    return str(value)
