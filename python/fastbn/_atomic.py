"""Files and folders that appear whole or not at all: written beside their place and put there when complete."""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import itertools
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

_SUFFIX = ".part"
_LONGEST = 100  # bytes of a name that is a part of another; file systems allow 255
_KEPT = "resume"  # where others have the number of their process
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <linux/fs.h>
_numbers = itertools.count()
_under_way: set[str] = set()  # temporary names of this process, some perhaps of other threads


@contextmanager
def replacing(
    path: str | os.PathLike[str], keep: bool = False, check: Callable[[], None] | None = None
) -> Iterator[str]:
    """Give a temporary name beside ``path``, and rename what was written there if nothing was raised.

    The data are on the disk before the name is. Whatever is raised, the temporary file or folder is removed, and
    OSError speaks of ``path``. With ``keep`` it stays, under a name that is the same the next time, which one run alone
    can have. A link stays one, and what it leads to is replaced. A device or a pipe is no file that could be replaced:
    it is written to as it is. No file replaces a folder. ``check`` is called last and raises if nothing must be
    replaced; between it and the renaming no other run that has one renames anything in the folder.
    """
    if not os.fspath(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)  # and not the folder that we are in
    target = os.path.realpath(path)
    if os.path.exists(target) and not (os.path.isfile(target) or os.path.isdir(target)):
        yield target
        return
    folder, name = os.path.split(os.path.abspath(target))
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
    # No glob of data files matches a name that begins with a dot.
    host = "".join(c if c.isalnum() else "_" for c in socket.gethostname())
    if len(os.fsencode(name)) > _LONGEST:  # or what else it has would not fit
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    prefix = os.path.join(folder, f".{name}.{host[:_LONGEST]}-")
    _remove_stale(prefix)
    temporary = f"{prefix}{_KEPT if keep else f'{os.getpid()}.{next(_numbers)}'}{_SUFFIX}"
    _under_way.add(temporary)
    try:
        with _locked(temporary) if keep else nullcontext():
            yield temporary
            _synchronize_all(temporary)
            with _alone_in(folder) if check else nullcontext():
                if check:
                    check()
                _put(temporary, target)
        _synchronize(folder)
    except BaseException as error:
        if not keep:
            removed(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(error.filename or temporary).replace(temporary, os.fspath(path))
        raise
    finally:
        _under_way.discard(temporary)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Keep a path for one run; the system releases it when the process ends, however that happens."""
    import fcntl  # which Windows does not have

    while True:
        with open(f"{path}.lock", "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if isinstance(error, BlockingIOError):  # else the file system has no locks
                    raise BlockingIOError(error.errno, "another run with resume=True is writing it", path) from None
            # The run that had the lock may have removed the file since it was opened, and another have made a new one.
            if not _is_at(lock.name, lock.fileno()):
                continue
            try:
                yield
            finally:
                removed(lock.name)
            return


@contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """Keep a folder for a moment, until other runs have let go of it, where the file system has locks."""
    import fcntl  # as above

    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_at(path: str, handle: int) -> bool:
    """Whether an opened file still is the one of this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def removed(path: str) -> None:
    """Remove a file or a folder, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):  # or another process may have removed it since it was looked for
            os.unlink(path)


def _remove_stale(prefix: str) -> None:
    """Remove what runs on this machine left behind that were killed; one of them may have had this one's number."""
    for path in glob.glob(f"{glob.escape(prefix)}*{_SUFFIX}*"):
        process = path[len(prefix) :].partition(".")[0]
        ours = process == str(os.getpid()) and not path.startswith(tuple(_under_way))
        if process.isdecimal() and (ours or not _runs(int(process))):
            removed(path)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # else it is another user's
    return True


def _put(temporary: str, target: str) -> None:
    """Rename; what was there gives its mode.

    A folder replaces no folder that holds something, so the two are exchanged, in one step if that can be. Else that
    one goes aside first, and back if it must. Between the two renames the aside may be the only copy there is, so its
    name is none of those that are removed.
    """
    with suppress(OSError):  # nothing was there, or the file system has no modes
        os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
    if not (os.path.isdir(target) and os.path.isdir(temporary)):
        os.replace(temporary, target)  # IsADirectoryError where a file would replace a folder
        return
    if _exchanged(temporary, target):
        removed(temporary)
        return
    aside = f"{temporary.removesuffix(_SUFFIX)}.old"
    try:
        os.rename(target, aside)
        os.rename(temporary, target)
    finally:
        if os.path.lexists(aside):
            os.rename(aside, temporary if os.path.lexists(target) else target)
    removed(temporary)


def _exchanged(one: str, other: str) -> bool:
    """Exchange two names in one step, if the system and the file system can do that: Linux's renameat2."""
    try:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # pragma: no cover (another C library)
        return False
    return bool(exchange(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def _synchronize_all(path: str) -> None:
    """Have the system write out a file, or a folder and everything in it.

    Of many files that takes minutes one by one; Linux's syncfs has all of a file system written, whoever wrote it.
    """
    if os.path.isdir(path) and _synchronized_with_others(path):
        return
    _synchronize(path)
    for root, folders, names in os.walk(path):
        for name in (*folders, *names):
            _synchronize(os.path.join(root, name))


def _synchronized_with_others(path: str) -> bool:
    handle = os.open(path, os.O_RDONLY)
    try:
        return bool(ctypes.CDLL(None).syncfs(handle) == 0)
    except (OSError, AttributeError):  # pragma: no cover (another system)
        return False
    finally:
        os.close(handle)


def _synchronize(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
