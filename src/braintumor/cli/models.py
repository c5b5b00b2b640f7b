"""Commands that list and add models."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from braintumor.classes import DISCLAIMER
from braintumor.cli.options import OptionalName
from braintumor.cli.output import DONE, FINDINGS, say, say_aside

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class ModelsList:
    """List the models that can be named: those of the package, and those added on this machine."""

    def run(self) -> int:
        """Print a line for each."""
        from braintumor.models.registry import RegisteredModel, surveyed

        models = surveyed()
        for model in models:
            if isinstance(model, RegisteredModel):
                precisions = ", ".join(model.precisions)
                say(f"{model.name:<16} {model.card.architecture:<8} {precisions:<14} {model.claim()}  {model.folder}")
            else:
                say_aside(f"left out: {model}")
        say(DISCLAIMER)
        return DONE if all(isinstance(model, RegisteredModel) for model in models) else FINDINGS


@dataclass(frozen=True)
class ModelsGet:
    """Download a model, an archive with card.json and ONNX files, and add it; an interrupted download goes on."""

    url: Positional[str]
    """Address of a ZIP archive, http or https."""
    sha256: str
    """Its SHA-256 in hexadecimal, from whoever published it."""
    name: OptionalName = None
    """What to call it; by default the name in its card."""

    def run(self) -> int:
        """Download, verify, add and say how to use it."""
        from braintumor.cli.output import Bar
        from braintumor.models.registry import get

        with Bar("downloading") as bar:
            found = get(self.url, self.sha256, self.name, bar.show)
        say(*_added_lines(found.name, found.folder))
        return DONE


@dataclass(frozen=True)
class ModelsAdd:
    """Add a model from a file or folder, without a network."""

    source: Positional[Path]
    """Model folder, or ZIP archive with card.json and ONNX files at its top."""
    sha256: OptionalName = None
    """SHA-256 that the archive must have, in hexadecimal."""
    name: OptionalName = None
    """What to call it; by default the name in its card."""

    def run(self) -> int:
        """Check, add and say how to use it."""
        from braintumor.models.registry import add

        found = add(self.source, self.name, self.sha256)
        say(*_added_lines(found.name, found.folder))
        return DONE


@dataclass(frozen=True)
class Models:
    """List models, or add further ones."""

    command: Annotated[
        Annotated[ModelsList, tyro.conf.subcommand("list")]
        | Annotated[ModelsGet, tyro.conf.subcommand("get")]
        | Annotated[ModelsAdd, tyro.conf.subcommand("add")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> int:
        """Run the command behind `models`."""
        return self.command.run()


def _added_lines(name: str, folder: Path) -> tuple[str, ...]:
    return f"{name}: {folder}", f"next: braintumor predict IMAGES --model {name}", DISCLAIMER
