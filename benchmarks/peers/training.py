"""The usual training script of this field, as its users write it: what `peer_training.py` measures ours against.

`ImageFolder`, PIL transforms, a shuffling `DataLoader`, torchvision's ResNet18 with a new classifier, float32, Adam,
weighted cross-entropy, every layer trained. Nothing here comes from our package.
"""

import itertools
import time
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18

SIZE, BATCH, LEARNING_RATE, WARM_UP = 224, 32, 1e-4, 5
FROZEN = ("conv1", "bn1", "layer1", "layer2")  # only where images/s of a partly frozen network are compared
AS_TENSOR = (transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
VARIED = transforms.Compose(
    [
        transforms.RandomResizedCrop(SIZE, scale=(0.7, 1.0), ratio=(0.9, 1.1)),
        transforms.RandomHorizontalFlip(0.5),
        transforms.RandomVerticalFlip(0.3),
        transforms.RandomRotation(30, interpolation=transforms.InterpolationMode.BILINEAR),
        transforms.ColorJitter(brightness=0.2, contrast=0.2),
        transforms.RandomApply([transforms.GaussianBlur(3, sigma=(0.1, 1.0))], p=0.5),
        *AS_TENSOR,
    ]
)
PLAIN = transforms.Compose([transforms.Resize((SIZE, SIZE)), *AS_TENSOR])


class Workers(NamedTuple):
    """How the work is spread: processes that load images, threads that compute."""

    processes: int
    threads: int

    @property
    def name(self) -> str:
        """The name in result files: W2T1 for two workers and one thread."""
        return f"W{self.processes}T{self.threads}"


class Script:
    """One run of the script: loaders, network, loss and optimizer."""

    def __init__(self, images: Path, weights: Path, workers: Workers, *, frozen: bool = False) -> None:
        torch.set_num_threads(workers.threads)
        folder = ImageFolder(images / "train", VARIED)
        processes = workers.processes
        self.train = DataLoader(folder, BATCH, shuffle=True, num_workers=processes, persistent_workers=processes > 0)
        self.validation = DataLoader(ImageFolder(images / "val", PLAIN), BATCH, num_workers=processes)
        self.network = resnet18(weights=None)
        self.network.fc = nn.Sequential(
            nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.6), nn.Linear(512, len(folder.classes))
        )
        self.network.load_state_dict(load_file(weights))
        self.frozen = [self.network.get_submodule(name) for name in FROZEN] if frozen else []
        for part in self.frozen:
            part.requires_grad_(False)
        counts = torch.bincount(torch.tensor(folder.targets)).float()
        self.loss = nn.CrossEntropyLoss(weight=len(folder) / (len(counts) * counts))
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE)

    def epoch(self) -> float:
        """Train on every image once; return the mean loss of the batches."""
        self.network.train()
        total = 0.0
        for images, labels in self.train:
            total += self.step(images, labels)
        return total / len(self.train)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Take one step of the optimizer; return the loss."""
        self.optimizer.zero_grad()
        loss = self.loss(self.network(images), labels)
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    def rate(self, steps: int) -> float:
        """Return images/s over so many steps after some to warm up, loading and varying the images included."""
        self.network.train()
        for part in self.frozen:
            part.eval()
        done, began = 0, time.perf_counter()
        for number, (images, labels) in enumerate(itertools.islice(self.train, WARM_UP + steps), start=1):
            self.step(images, labels)
            done += len(labels)
            if number == WARM_UP:
                done, began = 0, time.perf_counter()
        return done / (time.perf_counter() - began)

    @torch.no_grad()
    def accuracy(self) -> float:
        """Return the share of validation images classified right."""
        self.network.eval()
        right = sum(int((self.network(images).argmax(1) == labels).sum()) for images, labels in self.validation)
        return right / len(self.validation.dataset)  # type: ignore[arg-type]
