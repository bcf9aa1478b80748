"""What the arguments of the `fastbn` command mean. Opens no file, and knows not what is done with them."""

from __future__ import annotations

import csv
from contextlib import suppress
from enum import Enum
from typing import Annotated, Any

import typer


class WhenUnreadable(str, Enum):
    """What happens with a file that cannot be read."""

    stop = "raise"
    skip = "skip"


class WhenNan(str, Enum):
    """What happens with values that are NaN."""

    propagate = "propagate"
    omit = "omit"


class Computed(str, Enum):
    """What values are converted to before they count."""

    float32 = "float32"
    float64 = "float64"


class Written(str, Enum):
    """Type of a result."""

    float16 = "float16"
    float32 = "float32"
    float64 = "float64"


def nbytes_of(text: str) -> int:
    """Return a number of bytes."""
    digits = text.upper().removesuffix("B").removesuffix("I")
    unit = {"K": 10, "M": 20, "G": 30}.get(digits[-1:], 0)
    try:
        return int(float(digits[:-1] if unit else digits) * 2**unit)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"--memory must be a number of bytes such as 64M or 1G, got {text!r}") from None


def axes_of(text: str) -> int | tuple[int, ...]:
    """Return one axis, or several."""
    try:
        axes = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(f"--axis must be numbers with commas between, got {text!r}") from None
    return axes[0] if len(axes) == 1 else axes


def columns_of(texts: list[str]) -> list[str] | None:
    """Return the columns of all texts, in each of which commas are between."""
    return [column for text in texts for column in next(csv.reader([text], skipinitialspace=True), [])] or None


def nodata_of(texts: list[str]) -> Any:
    """Return the values that are no data: of all columns, of some, or none at all; None where nothing is said."""
    if not texts:
        return None
    found: dict[str | None, list[float]] = {}
    for text in texts:
        column, equals, value = text.rpartition("=")
        values = found.setdefault(column if equals else None, [])
        if value.lower() != "none":
            values.append(_number(value))
    return found[None] if found.keys() == {None} else found


def _number(text: str) -> float:
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    raise typer.BadParameter(f"--nodata must be numbers, got {text!r}")


def delimiter_of(text: str | None) -> str | None:
    """Return what is between columns, of which a tab is hard to type."""
    return "\t" if text in ("tab", "\\t") else text


def dims_of(text: str | None) -> list[str] | None:
    """Return names of dimensions."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Files (.npy, .npz, .csv, .parquet, .h5, .nc, .zarr, images) or folders; FILE:NAME: one array of several.",
    ),
]
Axis = Annotated[
    str | None, typer.Option(help="Feature axis or axes of arrays, which keep statistics of their own.  [default: 1]")
]
Columns = Annotated[list[str], typer.Option(help="Names or numbers of the features, with commas between.")]
Scale = Annotated[float | None, typer.Option(help="Divide values by this: 255 for images in units of 0 to 1.")]
Mode = Annotated[str | None, typer.Option(help="Convert images to this mode: L, RGB, RGBA, ...")]
NoData = Annotated[
    list[str],
    typer.Option(
        "--nodata",
        help="A stored value that is no data, or COLUMN=VALUE; may be repeated; 'none': not even what the file says.",
    ),
]
Dim = Annotated[str | None, typer.Option(help="Names of the dimensions to reduce, with commas between.")]
NullValues = Annotated[list[str], typer.Option("--null", help="What else stands for a missing entry; may be repeated.")]
Delimiter = Annotated[str | None, typer.Option(help="What is between the columns of texts; 'tab' is one.")]
Decimal = Annotated[str, typer.Option(help="The decimal point of texts.")]
Encoding = Annotated[str, typer.Option(help="The encoding of texts.")]
Comment = Annotated[str | None, typer.Option(help="What begins a comment in texts.")]
MaxPixels = Annotated[int, typer.Option(help="The largest image to decode.")]
Header = Annotated[
    bool | None, typer.Option("--header/--no-header", help="Whether the first line of texts has the columns' names.")
]
Memory = Annotated[str, typer.Option(help="Most memory for data, as 64M or 1G.")]
OnErrors = Annotated[WhenUnreadable, typer.Option(help="What to do about a file that cannot be read.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the same command was stopped, if it was.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file (or Zarr store) that is there already.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
