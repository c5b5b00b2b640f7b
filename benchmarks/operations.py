"""How many operations a training step needs, and how many a device can do: how near a loop is to the limit."""

import time

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from braintumor.training.config import TrainConfig
from braintumor.training.networks import Network, build_network, freeze, train_mode

REPEATS = 20


def step_operations(config: TrainConfig, size: int) -> float:
    """Return the operations of one training step per image of size x size pixels; a multiply-add counts as two.

    Convolutions and matrix products, forward and backward, nothing backward where frozen.
    """
    network: Network = build_network(config.model)
    freeze(network, config.frozen)
    train_mode(network, config.frozen)
    batch, labels = torch.rand(2, 1, size, size), torch.zeros(2, dtype=torch.int64)  # batch norm needs two
    with FlopCounterMode(display=False) as counter:
        functional.cross_entropy(network(batch), labels).backward()
    return float(counter.get_total_flops()) / len(batch)


def matmul_rates(device: str, side: int, dtype: torch.dtype = torch.bfloat16) -> list[float]:
    """Return the operations per second of products of two side x side matrices, after some to warm up."""
    left, right = (torch.randn(side, side).to(device, dtype) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    rates = []
    for _ in range(2 * REPEATS):
        wait()
        began = time.perf_counter()
        for _ in range(REPEATS if device == "cuda" else 1):
            left @ right
        wait()
        rates.append((REPEATS if device == "cuda" else 1) * 2 * side**3 / (time.perf_counter() - began))
    return rates[REPEATS:]
