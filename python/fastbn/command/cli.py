"""The `fastbn` command: what its parts do, and say when something is wrong. Computes nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from fastbn import config
from fastbn.command import display
from fastbn.command.arguments import (
    Axis,
    Columns,
    Comment,
    Computed,
    Decimal,
    Delimiter,
    Dim,
    Encoding,
    Force,
    Header,
    Json,
    MaxPixels,
    Memory,
    Mode,
    NoData,
    NullValues,
    OnErrors,
    Resume,
    Scale,
    Sources,
    WhenNan,
    WhenUnreadable,
    Written,
    axes_of,
    columns_of,
    delimiter_of,
    dims_of,
    nbytes_of,
    nodata_of,
)
from fastbn.io.checkpoints import is_checkpoint
from fastbn.io.options import MAX_PIXELS, MEMORY, reading_of
from fastbn.io.places import is_zarr, left_out, places, replaces
from fastbn.io.run import other_columns
from fastbn.io.standardizing import standardize as write_standardized
from fastbn.io.statsfiles import Stats, checked_suffix, load_stats, merged_stats, save_stats, to_json
from fastbn.io.streaming import streamed

app = typer.Typer(
    name="fastbn",
    help="Statistics and standardization of data larger than memory.",
    epilog="The exit code is 0; 1 if something is wrong with the data or the result cannot be written; 2 if the "
    "arguments make no sense; 130 after Ctrl-C and 143 after SIGTERM, which leave no half-written file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


F = TypeVar("F", bound=Callable[..., None])


def _command(command: F) -> F:
    app.command()(command)
    return command


def run(arguments: Sequence[str] | None = None) -> None:
    """Run a command; SystemExit when it ends, with one line and code 1 where data are wrong, or when it is stopped."""
    stops = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in stops}
    try:
        try:
            app(arguments, prog_name="fastbn")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # pragma: no cover (of a process of its own: this one's output is not to be lost)
        # Whoever read the result wants no more of it; nor may Python try to write the rest as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        print(f"fastbn: error: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        # Whatever is read or written has a name, but for what is printed.
        return f"{'standard output' if error.filename is None else os.fspath(error.filename)}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


@_command
def stats(
    sources: Sources,
    out: Annotated[
        list[str], typer.Option("--out", "-o", help="Write the statistics to .npz or .json; may be repeated.")
    ] = [],  # noqa: B006
    axis: Axis = None,
    dim: Dim = None,
    columns: Columns = [],  # noqa: B006
    dtype: Annotated[Computed | None, typer.Option(help="Convert values to this before they count.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="How much each value counts: a column of a table, or a file of one for each row.")
    ] = None,
    nan: Annotated[WhenNan, typer.Option(help="Whether NaN makes statistics NaN, or is left out.")] = WhenNan.propagate,
    where_finite: Annotated[bool, typer.Option("--where-finite", help="Leave out NaN and infinite values.")] = False,
    scale: Scale = None,
    mode: Mode = None,
    nodata: NoData = [],  # noqa: B006
    max_pixels: MaxPixels = MAX_PIXELS,
    header: Header = None,
    null_values: NullValues = [],  # noqa: B006
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    encoding: Encoding = "utf-8",
    comment: Comment = None,
    memory: Memory = f"{MEMORY >> 20}M",
    on_error: OnErrors = WhenUnreadable.stop,
    checkpoint: Annotated[
        str | None, typer.Option(help="Where to keep how far the run is.  [default: OUT.checkpoint]")
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = 5.0,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Print count, mean, std, min and max of each feature."""
    _check_outputs(out, force, sources)
    kept = checkpoint or (f"{out[0]}.checkpoint" if out else None)
    if resume and kept is None:
        raise typer.BadParameter("--resume needs --out or --checkpoint, which say where the checkpoint is")
    if kept is not None:
        _check_checkpoint(kept, out, sources)
        _note_checkpoint(kept, resume)
    chosen = None if dtype is None else dtype.value
    reading = reading_of(
        axis=None if axis is None else axes_of(axis),
        dim=dims_of(dim),
        columns=columns_of(columns),
        weights=weights,
        dtype=chosen,
        mode=mode,
        nodata=nodata_of(nodata),
        max_pixels=max_pixels,
        header=header,
        null_values=null_values,
        delimiter=delimiter_of(delimiter),
        decimal=decimal,
        encoding=encoding,
        comment=comment,
        memory=nbytes_of(memory),
    )
    with _resumable(kept), display.progress("counting") as report:
        found = streamed(
            _one_or_several(sources),
            reading,
            nan=nan.value,
            where_finite=where_finite,
            scale=1.0 if scale is None else scale,
            on_error=_noted if on_error is WhenUnreadable.skip else "raise",
            checkpoint=kept,
            every=every,
            resume=resume,
            progress=report,
            note=display.note,
        )
    _note_left_out(sources)
    for path in out:
        save_stats(found.stats, path)
    if out:
        found.settle()
    others = [] if columns else other_columns(_one_or_several(sources), reading)
    _show(found.stats, as_json, others, skipped=found.skipped, notes=found.notes)
    sys.stdout.flush()
    found.settle()


@_command
def standardize(
    sources: Sources,
    statistics: Annotated[str, typer.Option("--stats", help="Statistics, as `fastbn stats --out` writes them.")],
    out: Annotated[str, typer.Option("--out", "-o", help="A file, or a folder of one file for each source or image.")],
    axis: Annotated[
        str | None, typer.Option(help="Feature axis or axes of arrays. By default as in the statistics.")
    ] = None,
    dim: Dim = None,
    columns: Columns = [],  # noqa: B006
    dtype: Annotated[Written | None, typer.Option(help="Type of what is written.")] = None,
    eps: Annotated[float, typer.Option(help="Added to the variance.")] = 0.0,
    scale: Scale = None,
    mode: Mode = None,
    nodata: NoData = [],  # noqa: B006
    max_pixels: MaxPixels = MAX_PIXELS,
    header: Header = None,
    null_values: NullValues = [],  # noqa: B006
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    encoding: Encoding = "utf-8",
    comment: Comment = None,
    memory: Memory = f"{MEMORY >> 20}M",
    on_error: OnErrors = WhenUnreadable.stop,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Write (x - mean) / std of all values."""
    axes = None if axis is None else axes_of(axis)
    with _resumable("" if resume else None), display.progress("writing") as report:
        write_standardized(
            _one_or_several(sources),
            statistics,
            out,
            axis=axes,
            dim=dims_of(dim),
            columns=columns_of(columns),
            dtype=None if dtype is None else dtype.value,
            eps=eps,
            scale=scale,
            mode=mode,
            nodata=nodata_of(nodata),
            max_pixels=max_pixels,
            header=header,
            null_values=null_values,
            delimiter=delimiter_of(delimiter),
            decimal=decimal,
            encoding=encoding,
            comment=comment,
            memory=nbytes_of(memory),
            on_error=_noted if on_error is WhenUnreadable.skip else "raise",
            overwrite=force,
            resume=resume,
            progress=report,
        )
    _note_left_out(sources)
    spoiled = display.spoiled(load_stats(statistics))
    if spoiled:
        display.note(f"no finite statistics, so only NaN is written: {', '.join(spoiled)}")


@_command
def merge(
    files: Annotated[list[str], typer.Argument(metavar="STATS", help="Statistics, .npz or .json.")],
    out: Annotated[list[str], typer.Option("--out", "-o", help="Write the result to .npz or .json; may be repeated.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Merge statistics of parts into those of the whole."""
    _check_outputs(out, force)
    result = merged_stats(files)
    for path in out:
        save_stats(result, path)
    _show(result, as_json)


@_command
def info(as_json: Json = False) -> None:
    """Print instruction set, threads and versions."""
    found = {**config.show_config("dicts"), **display.versions()}
    if as_json:
        print(json.dumps(found))
        return
    rows = [(name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in found.items()]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name.ljust(width)}  {'not installed' if value == 'None' else value}" for name, value in rows))


def _one_or_several(sources: list[str]) -> Any:
    return sources[0] if len(sources) == 1 else sources


def _check_outputs(paths: list[str], force: bool, sources: Sequence[str] = ()) -> None:
    for path in paths:
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if _is_source(path, sources):
            raise ValueError(f"--out must not be a source, got {path!r}")
        try:
            checked_suffix(path)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        if os.path.lexists(path) and not force:
            raise FileExistsError(errno.EEXIST, f"{os.strerror(errno.EEXIST)} (--force replaces it)", path)
        folder = os.path.dirname(os.path.abspath(path))
        if not os.access(folder, os.W_OK):  # said now, not when everything is counted
            code = errno.EACCES if os.path.isdir(folder) else errno.ENOENT
            raise OSError(code, os.strerror(code), folder)


def _is_source(path: str, sources: Sequence[str]) -> bool:
    if not os.path.exists(path):  # which saves a look into large folders
        return False
    return replaces(path, (file for place in places(sources) for file in place.files))


def _check_checkpoint(path: str, outputs: list[str], sources: Sequence[str]) -> None:
    if os.path.realpath(path) in map(os.path.realpath, outputs):  # the end of the run would remove the result
        raise ValueError(f"--checkpoint must not be --out, got {path!r}")
    if _is_source(path, sources):
        raise ValueError(f"--checkpoint must not be a source, got {path!r}")


def _note_checkpoint(path: str, resume: bool) -> None:
    if not resume and is_checkpoint(path):
        display.note(f"{path} is of a run that was interrupted; --resume would have gone on from it")
    if resume and not os.path.exists(path):
        display.note(f"{path} is not there, so this begins at the beginning")


@contextmanager
def _resumable(checkpoint: str | None) -> Iterator[None]:
    """Say of a run that is stopped how to go on."""
    try:
        yield
    except SystemExit:
        if checkpoint == "":
            display.note("stopped; the same command goes on from there")
        elif checkpoint is not None and is_checkpoint(checkpoint):
            display.note(f"stopped; the same command with --resume goes on from {checkpoint}")
        raise


def _note_left_out(sources: list[str]) -> None:
    for source in sources:
        others = left_out(source) if os.path.isdir(source) and not is_zarr(source) else []
        if others:
            shown = f"{others[0]}, ..." if len(others) > 1 else others[0]
            display.note(f"{source} has {len(others)} file(s) of other kinds, which were not read: {shown}")


def _noted(name: str, error: Exception) -> None:
    display.note(f"left out: {_one_line(error)}")


def _show(result: Stats, as_json: bool, others: Sequence[str] = (), notes: Sequence[str] = (), **more: Any) -> None:
    if as_json:
        print(to_json(result, **more, **({"notes": list(notes)} if notes else {})))
    else:
        display.show_stats(result, others, notes)
