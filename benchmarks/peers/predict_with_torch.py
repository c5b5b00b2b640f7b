"""What a PyTorch user would write to classify one slice with our ResNet18: the peer of `cold_start.py`.

Command: python benchmarks/peers/predict_with_torch.py IMAGE WEIGHTS
"""

import sys

import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision import transforms

CLASSES = ("glioma", "meningioma", "pituitary", "no_tumor")

network = torchvision.models.resnet18()
network.fc = nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.6), nn.Linear(512, 4))
stored = load_file(sys.argv[2])
renamed = {name.removeprefix("backbone.").replace("head.", "fc."): tensor for name, tensor in stored.items()}
network.load_state_dict(renamed)
network.eval()
prepare = transforms.Compose(
    [
        transforms.Resize((224, 224)),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)
image = prepare(Image.open(sys.argv[1]).convert("RGB"))
with torch.inference_mode():
    probabilities = network(image[None]).softmax(dim=1)[0]
print("  ".join(f"{name} {share:.3f}" for name, share in zip(CLASSES, probabilities.tolist(), strict=True)))
