"""Device and precision of a run, and the processes that share its batches under torchrun."""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from braintumor.errors import TrainingError

DEVICES = ("auto", "cpu", "cuda")
TIMING_ROUNDS = 12
PROCESS_TIMEOUT = timedelta(hours=1)  # one process exports the model while the others wait


@dataclass(frozen=True)
class Processes:
    """The processes of a run and which of them this one is. Alone, every method does nothing.

    Attributes:
        rank: from 0; the process 0 reports and writes.
        world_size: how many there are.
        local_rank: from 0 on each machine; selects the GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Tell whether this process reports and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.world_size > 1:
            distributed.barrier()

    @contextlib.contextmanager
    def first_on_each_machine(self) -> Iterator[None]:
        """Let one process per machine do something before its others, so that they find it done."""
        if self.local_rank > 0:
            self.wait()
        try:
            yield
        finally:
            # Also after an error: the others are waiting here. They then meet the same error and report it themselves.
            if self.local_rank == 0:
                self.wait()

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's part of a batch (B,) of positions, which is the same in all processes."""
        return batch[self.rank :: self.world_size]

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.world_size > 1:
            value = value.clone()  # all_reduce works in place, and the caller's tensor is the caller's
            distributed.all_reduce(value)
        return value

    def same(self, value: float) -> float:
        """Return the value that process 0 passes."""
        # The sum of the first one's value and zeros, so that one collective serves both this and `total`.
        agreed = torch.tensor([value if self.leads else 0.0], dtype=torch.float64)
        return float(self.total(agreed.to(self.device))) if self.world_size > 1 else value

    @property
    def device(self) -> torch.device:
        """Return the device for tensors that travel between the processes: nccl takes those on GPUs only."""
        is_nccl = self.world_size > 1 and distributed.get_backend() == "nccl"
        return torch.device("cuda", self.local_rank) if is_nccl else torch.device("cpu")

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return the network that averages its gradients over all processes; all start from the first one's weights."""
        return nn.parallel.DistributedDataParallel(network) if self.world_size > 1 else network


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started (gloo on CPUs, nccl on GPUs); alone where it did not."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    rank, world_size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    process_group = Processes(rank, world_size, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(local_rank)  # nccl would otherwise put every process on the first GPU
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PROCESS_TIMEOUT)
    yield process_group
    distributed.barrier()  # a process that leaves early would abort the others
    distributed.destroy_process_group()


def chosen_device(name: str) -> torch.device:
    """Return the device with this name; `auto` is a GPU where there is one, and torchrun's processes have one each.

    Raises:
        TrainingError: another name, or `cuda` without a GPU.
    """
    if name not in DEVICES:
        raise TrainingError(f"device: expected one of {', '.join(DEVICES)}, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: this machine has no usable GPU; use --device auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def compute_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device computes a typical convolution in it in under 0.8 of float32's time."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    convolution = torch.nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    image = torch.rand(4, 64, 56, 56).contiguous(memory_format=torch.channels_last)
    # The fastest of several rounds, both types in turn: other programs can only slow a round down.
    fastest = {torch.float32: math.inf, torch.bfloat16: math.inf}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what other programs do on the other cores must not decide
    for dtype in (torch.float32, torch.bfloat16) * TIMING_ROUNDS:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            began = time.perf_counter()
            convolution(image).sum().backward()
        fastest[dtype] = min(fastest[dtype], time.perf_counter() - began)
    torch.set_num_threads(threads)
    return torch.bfloat16 if fastest[torch.bfloat16] < 0.8 * fastest[torch.float32] else torch.float32
