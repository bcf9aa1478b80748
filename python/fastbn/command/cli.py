"""The `fastbn` command: what its parts do, and say when something is wrong. Computes nothing."""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from fastbn import __version__, config
from fastbn.command import display
from fastbn.io.checkpoints import is_checkpoint
from fastbn.io.counting import Counting
from fastbn.io.options import MAX_PIXELS, MEMORY, Options
from fastbn.io.places import already_there, is_zarr, left_out, places, replaces
from fastbn.io.rewriting import Rewriting, target_for
from fastbn.io.statsfiles import checked_suffix, listed, load_stats, merged_stats, save_stats, spoiled, to_json

# What arguments mean.


def _axes(text: str) -> int | tuple[int, ...]:
    try:
        axes = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        hint = "(--dim names the dimensions to reduce)"
        raise click.UsageError(f"--axis must be numbers with commas between, got {text!r} {hint}") from None
    return axes[0] if len(axes) == 1 else axes


def _listed(context: Any, option: Any, texts: Sequence[str]) -> list[str] | None:
    """Return the names in all texts, in each of which commas are between."""
    found = [name for text in texts for name in next(csv.reader([text], skipinitialspace=True), [])]
    if texts and not found and option.name == "columns":
        raise click.UsageError("--columns must name a column, got ''")
    return found or None


def _nodata(context: Any, option: Any, texts: Sequence[str]) -> Any:
    """Return the values that are no data: of all columns, of some, or none at all; None where nothing is said."""
    found: dict[str | None, list[float]] = {}
    for text in texts:
        column, equals, value = text.rpartition("=")
        values = found.setdefault(column if equals else None, [])
        if value.lower() != "none":
            values.append(_number(value))
    return found.get(None) if found.keys() <= {None} else found


def _number(text: str) -> float:
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    raise click.UsageError(f"--nodata must be numbers or COLUMN=NUMBER, got {text!r}")


def _option(names: str, text: str, **settings: Any) -> Any:
    """Return an option; one that has one value is refused where it is given twice, for click takes the last."""
    if settings.keys() & {"is_flag", "multiple"}:
        return click.Option(names.split(), help=text, **settings)
    callback = settings.pop("callback", None)

    def once(context: Any, option: Any, values: Sequence[Any]) -> Any:
        if len(values) > 1:
            raise click.UsageError(
                f"{option.opts[0]} must be given once, got {' and '.join(map(str, values))}", context
            )
        value = values[0] if values else None
        return callback(context, option, value) if callback is not None else value

    if "default" in settings:
        settings["default"] = (settings["default"],)
    return click.Option(names.split(), help=text, callback=once, multiple=True, **settings)


_SOURCES = click.Argument(["sources"], metavar="SOURCE...", nargs=-1, required=True)
_TABS = {"tab": "\t", "\\t": "\t"}  # which are hard to type
_RESULT = "Write the statistics to .npz or .json; may be repeated."
_FORCE = _option("--force", "Replace a file (or Zarr store) that is there already.", is_flag=True)
_JSON = _option("--json as_json", "Print JSON.", is_flag=True)
_AXIS = "Feature axes of arrays, as 1 or 1,2. By default"
# How sources are read: the options of `stream` and of `standardize` alike, by the names that these have for them.
_READING = [
    _option("--dim", "Names of the dimensions to reduce, as a,b; may be repeated.", multiple=True, callback=_listed),
    _option("--columns", "Names or numbers of the features, as a,b; may be repeated.", multiple=True, callback=_listed),
    _option("--scale", "Divide values by this: images of 8 bits by 255, of 16 by 65535, for 0 to 1.", type=float),
    _option("--mode", "Convert images to this mode: L, RGB, RGBA, ..."),
    _option(
        "--nodata",
        "A stored value that is no data, or COLUMN=VALUE; may be repeated. 'none': all count, whatever the file says.",
        multiple=True,
        callback=_nodata,
    ),
    _option("--max-pixels", "The largest image to decode.", type=int, default=MAX_PIXELS),
    _option("--header", "The first line of texts has the columns' names.", is_flag=True),
    _option("--no-header", "The first line of texts has values already.", is_flag=True),
    _option("--null null_values", "Another text for a missing entry; may be repeated.", multiple=True),
    _option(
        "--delimiter",
        "What is between the columns of texts; 'tab' is one.",
        callback=lambda _, __, text: _TABS.get(text, text),
    ),
    _option("--decimal", "The decimal point of texts, by default a point."),
    _option("--encoding", "The encoding of texts, by default UTF-8."),
    _option("--comment", "What begins a comment in texts."),
    _option("--memory", "Most memory for data, as 64M.", default=f"{MEMORY >> 20}M"),
    _option("--on-error", "What to do about unreadable files.", type=click.Choice(["raise", "skip"]), default="raise"),
    _option("--resume", "Go on from where the same command was stopped. If it was not, begin.", is_flag=True),
    _FORCE,
]


# What the parts do.


def stats(
    sources: Sequence[str], out: Sequence[str], checkpoint: str | None, force: bool, as_json: bool, **given: Any
) -> None:
    """Print count, mean, std, min and max of each feature."""
    kept = checkpoint or (f"{out[0]}.checkpoint" if out else None)
    with _usage():
        for path in out:
            checked_suffix(path, "out")
        if given["resume"] and kept is None:
            raise ValueError("--resume needs --out or --checkpoint, which say where the checkpoint is")
        if kept is not None and os.path.realpath(kept) in map(os.path.realpath, out):
            raise ValueError(f"--checkpoint must not be --out, got {kept!r}")  # the end of the run would remove that
        options = _options(given, checkpoint=kept)
    _check_outputs(out, force, sources)
    with _running(sources, given, kept), display.progress("counting") as report:
        counting = Counting(sources, options.but(progress=report))
        if kept is not None and not (options.resume or force) and is_checkpoint(kept):
            hint = "--resume goes on from it, --force begins anew"
            raise ValueError(f"{kept} is of a run that was interrupted: {hint}")
        if kept is not None and options.resume and not os.path.exists(kept):
            display.note(f"{kept} is not there, so this begins at the beginning")
        moments = counting.moments()
    _note_left_out(sources)
    _check_outputs(out, force, sources)  # which others may have written in the meantime
    for path in out:
        save_stats(moments, path)
    if out:
        counting.remove_checkpoint()
    notes, others = counting.state.notes, (not given["columns"] and counting.state.others) or {}
    if as_json:
        more = {"notes": notes, "not_read": others}
        told = {name: value for name, value in more.items() if value}
        print(to_json(moments, skipped=counting.state.skipped, **told))
    else:
        display.show_stats(moments, others, notes)
    sys.stdout.flush()
    counting.remove_checkpoint()


def standardize(sources: Sequence[str], statistics: str, out: str, force: bool, **given: Any) -> None:
    """Write (x - mean) / std of all values."""
    with _usage():
        checked_suffix(statistics, "statistics")
        options = _options(given | {"dtype": None}, written=given["dtype"], overwrite=force)
        target_for(out, options)
    with _running(sources, given, "" if options.resume else None), display.progress("writing") as report:
        Rewriting(sources, statistics, out, options.but(progress=report)).write()
    _note_left_out(sources)
    wrong = spoiled(load_stats(statistics))
    if wrong:
        display.note(f"no finite statistics, so only NaN is written: {listed(wrong)}")


def merge(files: Sequence[str], out: Sequence[str], force: bool, as_json: bool) -> None:
    """Merge statistics of parts into those of the whole."""
    with _usage():
        for path in files:
            checked_suffix(path, "STATS")
        for path in out:
            checked_suffix(path, "out")
    _check_outputs(out, force)
    result = merged_stats(files)
    for path in out:
        save_stats(result, path)
    if as_json:
        print(to_json(result))
    else:
        display.show_stats(result)


def info(as_json: bool) -> None:
    """Print instruction set, threads and versions."""
    found = {**config.show_config("dicts"), **display.versions()}
    if as_json:
        print(json.dumps(found))
        return
    rows = [(name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in found.items()]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name.ljust(width)}  {'not installed' if value == 'None' else value}" for name, value in rows))


_PARAMETERS: dict[Any, list[Any]] = {
    stats: [
        _SOURCES,
        _option("--out -o", _RESULT, multiple=True),
        _option("--axis", f"{_AXIS} 1.", type=_axes, metavar="TEXT"),
        *_READING,
        _option("--dtype", "Convert values to this before they count.", type=click.Choice(["float32", "float64"])),
        _option("--weights", "How much each value counts: a column of a table, or a file of one for each row."),
        _option("--nan", "Whether NaN is left out.", type=click.Choice(["propagate", "omit"]), default="propagate"),
        _option("--where-finite", "Leave out NaN and infinite values.", is_flag=True),
        _option("--checkpoint", "Where to keep how far the run is. By default OUT.checkpoint."),
        _option("--every", "Seconds between checkpoints.", type=float, default=5.0),
        _JSON,
    ],
    standardize: [
        _SOURCES,
        _option("--stats statistics", "Statistics, as `fastbn stats --out` writes them.", required=True),
        _option("--out -o", "A file, or a folder of one file for each source or image.", required=True),
        _option("--axis", f"{_AXIS} as in --stats, or 1.", type=_axes, metavar="TEXT"),
        *_READING,
        _option("--dtype", "Type of what is written.", type=click.Choice(["float16", "float32", "float64"])),
        _option("--eps", "Added to the variance.", type=float, default=0.0),
    ],
    merge: [
        click.Argument(["files"], metavar="STATS...", nargs=-1, required=True),
        _option("--out -o", _RESULT, multiple=True, required=True),
        _FORCE,
        _JSON,
    ],
    info: [_JSON],
}


class _Commands(click.Group):  # type: ignore[misc]  # of no known type
    """The parts of the command, which says of names of Python's functions what they are called here."""

    _called = {"normalize": "standardize", "moments": "stats", "stream": "stats"}  # noqa: RUF012 (not written to)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a part by its name."""
        if name in self._called:
            context.fail(f"No such command {name!r}. Did you mean {self._called[name]!r}?")
        return super().get_command(context, name)


app = _Commands(
    "fastbn",
    commands=[
        click.Command(part.__name__, callback=part, params=parameters, help=part.__doc__)
        for part, parameters in _PARAMETERS.items()
    ],
    help="Statistics and standardization of data larger than memory. A SOURCE is a file (.npy, .npz, .csv, .parquet, "
    ".h5, .nc, .zarr, images) or a folder; FILE:NAME is one array of several.",
    epilog="The exit code is 0; 1 if something is wrong with files: with the data, or because a result cannot be "
    "written; 2 if the arguments cannot be right, whatever files there are; 130 after Ctrl-C and 143 after SIGTERM, "
    "which leave no half-written file.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
app = click.version_option(__version__, prog_name="fastbn", message="%(prog)s %(version)s")(app)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run a command; SystemExit when it ends, with one line and code 1 where data are wrong, or when it is stopped."""
    stops = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # it writes of texts that it does not understand
    before = {number: signal.signal(number, lambda number, frame: sys.exit(128 + number)) for number in stops}
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


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        # Whatever is read or written has a name, but for what is printed.
        return f"{'standard output' if error.filename is None else os.fspath(error.filename)}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _usage() -> Iterator[None]:
    """Make what is wrong with arguments, whatever files there are, an error of usage, which names the option."""
    try:
        yield
    except (TypeError, ValueError) as error:
        name, _, rule = str(error).partition(" ")
        context = click.get_current_context()
        known = {option.name: option.opts[0] for option in context.command.params}
        raise click.UsageError(f"{known.get(name, name)} {rule}", context) from None


def _options(given: dict[str, Any], **more: Any) -> Options:
    """Return the options of a call, with someone to tell of files that are left out."""
    if given["header"] and given["no_header"]:
        raise ValueError("header must come without --no-header, got both")
    header = True if given["header"] else False if given["no_header"] else None
    on_error = given["on_error"]
    if on_error == "skip":
        on_error = lambda name, error: display.note(f"left out: {_one_line(error)}")  # noqa: E731
    return Options.of(given, **more | {"header": header, "on_error": on_error, "note": display.note})


def _check_outputs(paths: Sequence[str], force: bool, sources: Sequence[str] = ()) -> None:
    for path in paths:
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        # What is not there saves a look into large folders.
        if os.path.exists(path) and replaces(path, (file for place in places(sources) for file in place.files)):
            raise ValueError(f"--out must not be one of the sources, got {path!r}")
        if os.path.lexists(path) and not force:
            raise already_there(path)
        folder = os.path.dirname(os.path.abspath(path))
        if not os.access(folder, os.W_OK):  # said now, not when everything is counted
            code = errno.EACCES if os.path.isdir(folder) else errno.ENOENT
            raise OSError(code, os.strerror(code), folder)


@contextmanager
def _running(sources: Sequence[str], given: dict[str, Any], checkpoint: str | None) -> Iterator[None]:
    """Say of a run that is stopped how to go on, and of sources that are columns or dimensions how these are given."""
    try:
        yield
    except FileNotFoundError as error:
        name = "columns" if given["columns"] else "dim"
        if given[name] and error.filename in sources:
            others = (source.strip(",") for source in sources if not os.path.exists(source))
            several = ",".join(filter(None, (*given[name], *others)))
            error.strerror = f"{error.strerror} (several: --{name} {several})"
        raise
    except SystemExit:
        # No checkpoint is written here, between two of them: the block under way is half counted.
        how = "the same command goes on from there" if checkpoint == "" else "nothing of it is kept"
        if checkpoint and is_checkpoint(checkpoint):
            how = f"the same command with --resume goes on from {checkpoint}"
        display.note(f"stopped; {how}")
        raise


def _note_left_out(sources: Sequence[str]) -> None:
    for source in sources:
        others = left_out(source) if os.path.isdir(source) and not is_zarr(source) else []
        if others:
            shown = f"{others[0]}, ..." if len(others) > 1 else others[0]
            display.note(f"{source} has {len(others)} file(s) of other formats, which were not read: {shown}")
