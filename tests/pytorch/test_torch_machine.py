"""Promise: torch's number of threads is ours, and forked workers compute."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import fastbn
import fastbn.torch
from support.interpreters import run_python


def test_set_num_threads_of_torch_is_followed() -> None:
    before = torch.get_num_threads()
    x = torch.randn(8, 3)
    try:
        torch.set_num_threads(3)
        fastbn.torch.batch_norm(x, training=True)
        assert fastbn.get_num_threads() == 3
        fastbn.set_num_threads(2)  # whoever speaks last is heard
        fastbn.torch.batch_norm(x, training=True)
        assert fastbn.get_num_threads() == 2
        torch.set_num_threads(1)
        fastbn.torch.batch_norm(x, training=True)
        assert fastbn.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
        fastbn.torch.batch_norm(x, training=True)
        fastbn.set_num_threads(None)


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    before = torch.get_num_threads()
    x = torch.randn(32, 16, 20, 20)
    found = []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            leaf = x.clone().requires_grad_()
            y = fastbn.torch.batch_norm(leaf, training=True)
            found.append((y.detach(), *torch.autograd.grad(y, leaf, x)))
    finally:
        torch.set_num_threads(before)
        fastbn.torch.batch_norm(x, training=True)
        fastbn.set_num_threads(None)
    for y, dx in found[1:]:
        assert torch.equal(y, found[0][0])
        assert torch.equal(dx, found[0][1])


class Normalized(Dataset[torch.Tensor]):
    """Batches that the worker normalizes itself."""

    def __init__(self) -> None:
        self.module = fastbn.torch.BatchNorm2d(3)

    def __len__(self) -> int:
        """Return the number of batches."""
        return 4

    def __getitem__(self, i: int) -> torch.Tensor:
        """Return a normalized batch."""
        x = torch.full((4, 3, 64, 64), float(i)) + torch.arange(4.0).reshape(4, 1, 1, 1)
        return self.module(x).detach()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking a process that has threads
def test_forked_workers_of_a_data_loader() -> None:
    data = Normalized()
    want = [data[i] for i in range(4)]  # after which this process has threads
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    for got, wanted in zip(loader, want, strict=True):
        torch.testing.assert_close(got, wanted)


def test_fastbn_alone_does_not_import_torch() -> None:
    done = run_python("import sys, fastbn; print('torch' in sys.modules, 'torch' in dir(fastbn)); fastbn.torch.convert")
    assert (done.stdout, done.stderr) == ("False True\n", "")


@pytest.mark.parametrize("missing", ["torch", "ml_dtypes"])
def test_what_is_missing_is_said(missing: str) -> None:
    done = run_python(
        f"import sys; sys.modules[{missing!r}] = None; import fastbn; print(fastbn.moments); import fastbn.torch"
    )
    assert done.stdout.startswith("<function moments")
    assert 'ImportError: fastbn.torch needs PyTorch and ml_dtypes: pip install "fastbn[torch]"' in done.stderr
