"""What the arguments of the `fastbn` command mean. Opens no file, and knows not what is done with them."""

from __future__ import annotations

import csv
from enum import Enum
from typing import Annotated

import typer


class WhenUnreadable(str, Enum):
    """What happens with a file that cannot be read."""

    stop = "raise"
    skip = "skip"


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


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Files (.npy, .npz, .csv, .parquet, .h5, .zarr, images) or folders; FILE:NAME for one array of several.",
    ),
]
Axis = Annotated[str, typer.Option(help="Feature axis or axes of arrays, which keep statistics of their own.")]
Columns = Annotated[list[str], typer.Option(help="Names or numbers of the features, with commas between.")]
Scale = Annotated[float | None, typer.Option(help="Divide values by this: 255 for images in units of 0 to 1.")]
Mode = Annotated[str | None, typer.Option(help="Convert images to this mode: L, RGB, RGBA, ...")]
Header = Annotated[
    bool | None, typer.Option("--header/--no-header", help="Whether the first line of texts has the columns' names.")
]
Memory = Annotated[str, typer.Option(help="Most memory for data, as 64M or 1G.")]
OnErrors = Annotated[WhenUnreadable, typer.Option(help="What to do about a file that cannot be read.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file (or Zarr store) that is there already.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
