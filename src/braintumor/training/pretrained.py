"""Starting weights of a backbone: the pinned ImageNet file, a file at hand, or none."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from braintumor.download import Remote, fetch, remote_size
from braintumor.errors import DownloadError, WeightsError
from braintumor.files import cache_folder, file_sha256
from braintumor.training.networks import Network, he_normal

HOW_TO_CONVERT: Final = (
    "which can contain programs and is therefore not opened. If you trust it, convert it once with: python -c "
    '"import torch; from safetensors.torch import save_file; '
    "save_file(torch.load('{file}', weights_only=True), '{stem}.safetensors')\""
)
# By their first bytes; none of these files is opened any further.
OTHER_FILES: Final = {
    b"PK\x03\x04": f"a ZIP archive, as torch.save writes it, {HOW_TO_CONVERT}",
    b"\x80": f"a pickle, as old versions of torch.save write it, {HOW_TO_CONVERT}",
    b"\x89HDF": "an HDF5 file, as Keras writes it; expected the weights of a PyTorch network as safetensors",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; download the file with: git lfs pull",
    b"<": "a web page, not the file itself; download it again",
}


@dataclass(frozen=True)
class Pinned:
    """File to download, only ever accepted with this SHA-256."""

    name: str
    url: str
    sha256: str


# By revision and hash, so that a run with the same settings starts from the same weights for ever.
IMAGENET: Final = {
    "resnet": Pinned(
        "resnet18.tv_in1k",
        "https://huggingface.co/timm/resnet18.tv_in1k/resolve/bbd144b3e5565108aad885f145491d11bc6ce807/model.safetensors",
        "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
    ),
}


def start(network: Network, model: str, weights: str, *, allow_partial: bool) -> str:
    """Load starting weights into the network's backbone and return where they come from, for the card.

    Args:
        network: as `networks.build_network` returns it.
        model: `cnn`, `resnet` or a timm name.
        weights: `imagenet`, `none` or the path of a safetensors file in the backbone's or torchvision's names.
        allow_partial: accept a file that lacks tensors; these start He-normal.

    Raises:
        WeightsError: nothing is pinned for this model, the download fails, or the file does not fit.
    """
    if weights == "none":
        return "random (He-normal)"
    if weights != "imagenet":
        return _load_into(network.backbone, Path(weights), Path(weights).name, allow_partial=allow_partial)
    if model not in IMAGENET:
        raise WeightsError(f"no ImageNet weights are pinned for {model}; pass --weights none or FILE.safetensors")
    pinned = IMAGENET[model]
    return _load_into(network.backbone, download(pinned, cache_folder()), pinned.name, allow_partial=allow_partial)


def download(pinned: Pinned, folder: Path) -> Path:
    """Return the verified local copy of a pinned file, downloading it if it is not there.

    Raises:
        WeightsError: no network, no such file, or other content than pinned, which is removed.
        StorageError: the disk is full or the folder cannot be written to.
    """
    target = folder / "weights" / f"{pinned.sha256}.safetensors"
    # Asked before the server is: a machine without network trains from the copy that it has.
    if target.is_file() and file_sha256(target) == pinned.sha256:
        return target
    try:
        remote = Remote(target.name, pinned.url, remote_size(pinned.url), pinned.sha256, "sha256")
        return fetch(remote, target.parent, lambda _done, _total: None)
    except DownloadError as error:
        raise WeightsError(
            f"{error}; on a machine without network pass --weights FILE.safetensors "
            "(and --allow_partial_weights if it lacks tensors), or --weights none for a random start"
        ) from error


def _load_into(backbone: nn.Module, file: Path, name: str, *, allow_partial: bool) -> str:
    """Load a safetensors file into the backbone; return its name, SHA-256 and what was missing.

    Tensors of a classifier (`fc.`, `classifier.`, `head.`) are ignored: the head is ours.
    """
    tensors = _tensors_in(file)
    # Counters of batches are in some files and not in others. Nothing reads them where the momentum is a number.
    expected = {key: value for key, value in backbone.state_dict().items() if not key.endswith("num_batches_tracked")}
    usable = {key: value for key, value in tensors.items() if key in expected}
    ignored = ("fc.", "classifier.", "head.")
    unexpected = [key for key in tensors if key not in expected and not key.startswith(ignored)]
    unexpected = [key for key in unexpected if not key.endswith("num_batches_tracked")]
    misshapen = [key for key in usable if usable[key].shape != expected[key].shape]
    if unexpected or misshapen or not usable:
        reason = f"unexpected {_short(unexpected)}, other shapes {_short(misshapen)}"
        raise WeightsError(f"{file} is for another network: {reason}")
    if not all(bool(value.isfinite().all()) for value in usable.values()):
        raise WeightsError(f"{file} holds values that are not finite; download it again")
    missing = sorted(set(expected) - set(usable))
    if missing and not allow_partial:
        raise WeightsError(
            f"{file} lacks {len(missing)} tensors ({', '.join(missing)}); "
            "pass --allow_partial_weights to start them at random (He-normal)"
        )
    for key in missing:
        if expected[key].dim() == 4:  # a convolution; the others keep the start that the network has given them
            he_normal(backbone.get_parameter(key))
    backbone.load_state_dict(usable, strict=False)
    return f"{name} (sha256 {file_sha256(file)})" + (f", He-normal: {', '.join(missing)}" if missing else "")


def _tensors_in(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; a file of another kind, such as a pickle, is never loaded.

    Raises:
        WeightsError: there is no such file, or it is of another kind.
    """
    try:
        return load_file(file)
    except FileNotFoundError as error:
        raise WeightsError(
            f"{file} cannot be read: there is no such file; pass another file or --weights none"
        ) from error
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{file} cannot be read as safetensors: it is {_kind_of(file) or error}") from error


def _kind_of(file: Path) -> str:
    """Return the kind of a file that is not safetensors, by its first bytes, and what to do; empty if unknown."""
    if file.is_dir():
        return "a folder; name the file in it"
    with file.open("rb") as stream:
        beginning = stream.read(max(map(len, OTHER_FILES)))
    advice = next((text for magic, text in OTHER_FILES.items() if beginning.startswith(magic)), "")
    return advice.format(file=file.name, stem=file.stem) if beginning else "empty; download it again"


def _short(names: list[str]) -> str:
    """Return the first three names and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"


def folded_norms(network: Network, frozen: Iterable[str]) -> list[nn.BatchNorm2d]:
    """Return the trainable batch norms that were folded into their convolutions: identity statistics, non-zero bias."""
    prefixes = tuple(f"{prefix}." for prefix in frozen)
    return [
        module
        for name, module in network.backbone.named_modules()
        if isinstance(module, nn.BatchNorm2d) and not f"{name}.".startswith(prefixes) and _is_folded(module)
    ]


def _is_folded(norm: nn.BatchNorm2d) -> bool:
    """Tell whether a batch norm only adds a bias: mean 0, variance 1, weight 1 and some bias other than 0."""
    if norm.running_mean is None or norm.running_var is None:
        return False
    # Some files hold 1 - eps as the variance, hence the tolerance.
    is_identity = bool((norm.running_mean == 0).all()) and torch.allclose(norm.running_var, torch.ones(()), atol=1e-3)
    return is_identity and torch.allclose(norm.weight, torch.ones(()), atol=1e-3) and bool((norm.bias != 0).any())


@torch.no_grad()
def unfold_norms(network: Network, norms: list[nn.BatchNorm2d], batches: Callable[[], Iterable[Tensor]]) -> None:
    """Give folded batch norms real statistics without changing what the network computes in evaluation mode.

    Without this, the first step in training mode would normalise activations that the weights expect unnormalised.
    The mean and deviation of each norm's input are measured on the batches; the mean becomes `running_mean`, the
    variance `running_var`, the deviation `weight`, and the mean is added to `bias`.

    Args:
        network: on the device of the batches.
        norms: as `folded_norms` returns them.
        batches: called once; yields (N, 1, H, W) inputs.
    """
    sums: dict[nn.BatchNorm2d, list[Tensor]] = {norm: [] for norm in norms}

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sums[cast(nn.BatchNorm2d, norm)].append(_moments(inputs[0]))

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    network.eval()
    for batch in batches():
        network.features(batch)
    for hook in hooks:
        hook.remove()
    for norm, parts in sums.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, square = torch.stack(parts).mean(dim=0)
        # In float64, see `_moments`: the difference of two large numbers. Rounding can still make it negative.
        variance = (square - mean**2).clamp(min=0)
        # What the norm computes now is slope * x + offset. The new statistics come with a weight and a bias that give
        # the same slope and offset.
        slope = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        norm.bias.add_((mean - norm.running_mean) * slope)
        norm.weight.copy_(torch.sqrt(variance + norm.eps) * slope)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def _moments(activations: Tensor) -> Tensor:
    """Return the (2, K) float64 mean and mean square per channel of (N, K, h, w) activations."""
    values = activations.double()
    return torch.stack([values.mean(dim=(0, 2, 3)), (values**2).mean(dim=(0, 2, 3))])
