"""A run of --breadth as Markdown: types, masks and fusion beside a plain call and the aims; knows records only."""

from __future__ import annotations

from collections.abc import Sequence

from cases import OPS
from records import Record, Run, pick
from report import TITLES, foot, head, row, time
from summary import OURS, Aim, Chooser, Measure, faster_than, ours, table
from variants import TOPICS

Wanted = tuple[float | None, float | None, float | None]

_FREE: Wanted = (None, None, None)

HEADINGS = {
    "types": "Types: time over that of float32",
    "masks": "Masks and weights: time over that of the unmasked call",
    "fusion": "Fusion: time over that of the plain call",
}


def _is(topic: str, variant: str) -> Chooser:
    return lambda r: r.group == topic and r.variant == variant


def _plain(records: Sequence[Record], topic: str) -> dict[str, Record]:
    """Return fastbn's call that the others are compared with, of each case."""
    return {r.case: r for r in ours(records, _is(topic, TOPICS[topic][0].name))}


def _ratio(topic: str, beyond_traffic: bool) -> Measure:
    def measure(records: Sequence[Record], of: Chooser) -> list[float]:
        plain = _plain(records, topic)
        pairs = [(r, plain[r.case]) for r in ours(records, of) if r.case in plain]
        return [r.median / p.median / (r.bound / p.bound if beyond_traffic else 1.0) for r, p in pairs]

    return measure


def _over_plain(topic: str, variant: str, wanted: Wanted, beyond_traffic: bool = False) -> Aim:
    title = f"{variant}, beyond its bytes" if beyond_traffic else variant
    return Aim(title, _is(topic, variant), _ratio(topic, beyond_traffic), wanted)


def _faster(topic: str, variant: str, peer: str, wanted: Wanted = _FREE) -> Aim:
    return Aim(f"{variant}, faster than {peer}", _is(topic, variant), faster_than(peer), wanted, at_most=False)


AIMS = {
    "types": (
        _over_plain("types", "bfloat16", (0.6, 0.6, 0.6)),
        _over_plain("types", "float16", (0.6, 0.6, 0.6)),
        _over_plain("types", "uint8", (None, 0.75, None)),
        _faster("types", "bfloat16", "PyTorch", (1, 1, 1)),
        _faster("types", "float16", "PyTorch", (1, 1, 1)),
        _faster("types", "uint8", "PyTorch"),
        _faster("types", "int16", "PyTorch"),
        _faster("types", "bool", "PyTorch"),
    ),
    "masks": (
        _over_plain("masks", "mask of samples", (1.1, None, 1.1)),
        _over_plain("masks", "mask of elements", (1.6, None, 1.6)),
        _over_plain("masks", "mask of positions", _FREE),
        _over_plain("masks", "weights of samples", _FREE),
    ),
    "fusion": (
        _over_plain("fusion", "relu", (1.05, None, 1.1)),
        _over_plain("fusion", "residual + relu", _FREE),
        _over_plain("fusion", "residual + relu", (1.05, None, None), beyond_traffic=True),
        _faster("fusion", "relu", "PyTorch"),
        _faster("fusion", "residual + relu", "PyTorch"),
        _faster("fusion", "relu", "oneDNN"),
    ),
}


def _details(records: Sequence[Record], topic: str) -> list[str]:
    """Return one table: a row per case and variant, fastbn over its plain call, peers over fastbn's in the row."""
    plain = _plain(records, topic)
    peers = [name for name in dict.fromkeys(r.peer for r in records) if name != OURS]
    columns = ["case", "variant", "fastbn", "over plain", "bytes over plain", *(f"{name} / fastbn" for name in peers)]
    lines = [row(columns), row(["---"] * 2 + ["---:"] * (len(columns) - 2))]
    for r in ours(records, lambda r: r.case in plain):
        base = plain[r.case]
        beside = {other.peer: other.median / r.median for other in pick(records, case=r.case, variant=r.variant)}
        cells = [f"{beside[name]:.2f}" if name in beside else "" for name in peers]
        ratios = [f"{r.median / base.median:.2f}", f"{r.bound / base.bound:.2f}"]
        lines.append(row([r.case, r.variant, time(r.median), *ratios, *cells]))
    return lines


def markdown(run: Run) -> str:
    """Return the whole report."""
    lines = head(run)
    for topic, heading in HEADINGS.items():
        records = pick(run.records, group=topic)
        if records:
            lines += ["", f"## {heading}", "", *table(records, AIMS[topic])]
        for op in OPS:
            some = pick(records, op=op)
            if some:
                lines += ["", f"### {TITLES[op]}", "", *_details(some, topic)]
    return "\n".join([*lines, *foot(run)]) + "\n"
