"""The command that starts the service."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from braintumor.classes import DISCLAIMER
from braintumor.cli.options import Precision
from braintumor.cli.output import DONE, say
from braintumor.errors import BrainTumorError
from braintumor.models.registry import DEFAULT

if TYPE_CHECKING:
    pass

TOKEN_VARIABLE = "BRAINTUMOR_TOKEN"


@dataclass(frozen=True)
class Serve:
    """Answer in the browser and to programs: a viewer, and an interface described under /docs.

    In a shell:
        braintumor serve
        braintumor serve --model cnn --model runs/resnet-reference --port 8080
    """

    model: tuple[str, ...] = (DEFAULT,)
    """One or more model folders or names from braintumor models list; two are shown side by side."""
    precision: Precision = None
    """float32 where the model has it, by default; int8 is faster, braintumor quantize writes it."""
    host: str = "127.0.0.1"
    """Interface to listen on; for any but this machine's own, BRAINTUMOR_TOKEN must hold a token in the environment."""
    port: int = 8000
    """0 takes any that is free."""
    require_confinement: bool = False
    """Refuse to start where the system cannot take all rights from the processes that decode files."""
    keep_alive_seconds: float = 75.0
    """How long a connection is kept on which nothing is asked; more than a proxy in front keeps its own."""

    def run(self) -> int:
        """Answer until Ctrl-C or SIGTERM."""
        from braintumor.io.sandbox import require_confinement
        from braintumor.models.registry import load
        from braintumor.server.run import serve
        from braintumor.server.settings import Settings

        if self.require_confinement:
            require_confinement()
        models = [load(model, precision=self.precision, threads=1) for model in self.model]
        names = [model.card.name for model in models]
        if len(set(names)) < len(names):
            raise BrainTumorError(f"models of the same name cannot be told apart: {', '.join(names)}; leave one out")

        def ready(address: str) -> None:
            say(", ".join(model.identity for model in models), f"open {address} (Ctrl-C ends)", DISCLAIMER)

        settings = Settings(token=os.environ.get(TOKEN_VARIABLE, ""), keep_alive_seconds=self.keep_alive_seconds)
        serve(models, settings, host=self.host, port=self.port, ready=ready)
        return DONE
