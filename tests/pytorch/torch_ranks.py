"""Processes of a `torch.distributed` group on this machine, which run functions that a test gives them."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from torch import distributed


class Ranks:
    """A group of processes by gloo. Each call of `run` is one collective step: every process runs the function."""

    def __init__(self, size: int, folder: Path) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self.size = size
        self._pipes, self._processes = [], []
        for rank in range(size):
            mine, theirs = context.Pipe()
            arguments = (rank, size, f"file://{folder}/store", theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            self._pipes.append(mine)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what ``function(rank, *arguments)`` returns in each process; raise what the first failing one raises.

        The function is a test module's own, found by name; arguments and results are pickled.
        """
        for pipe in self._pipes:
            pipe.send((function, arguments))
        results = []
        for pipe in self._pipes:
            assert pipe.poll(120), "a process does not answer"
            results.append(pipe.recv())
        failed = [result for result in results if isinstance(result, _Failure)]
        if failed:
            raise AssertionError(failed[0].text)
        return results

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(60)


class _Failure:
    def __init__(self, text: str) -> None:
        self.text = text


def _serve(rank: int, size: int, store: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    while (asked := pipe.recv()) is not None:
        function, arguments = asked
        try:
            pipe.send(function(rank, *arguments))
        except Exception:
            pipe.send(_Failure(traceback.format_exc()))
    distributed.destroy_process_group()
