"""The command line: which command is asked for, and what becomes of errors. One dataclass per command."""

import codecs
import difflib
import functools
import io
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from tyro.conf import FlagCreatePairsOff, OmitSubcommandPrefixes

from braintumor import __version__
from braintumor.classes import DISCLAIMER
from braintumor.cli.output import BAD_INPUT, CLOSED_PIPE, DONE, INTERRUPTED, say, say_aside
from braintumor.errors import BrainTumorError, MissingExtraError
from braintumor.files import user_folder
from braintumor.io.confinement import hide
from braintumor.text import visible

if TYPE_CHECKING:
    pass
from braintumor.cli.data import Audit, Data
from braintumor.cli.dicom import Dicom
from braintumor.cli.models import Models
from braintumor.cli.predict import Explain, Predict
from braintumor.cli.serve import Serve
from braintumor.cli.train import Compare, Evaluate, Folds, Quantize, Train

EXTRA_OF = {
    "torch": "train",
    "timm": "train",
    "safetensors": "train",
    "onnx": "train",
    "onnxscript": "train",
    "matplotlib": "evaluate",
    "jinja2": "evaluate",
    "markupsafe": "evaluate",
    "faiss": "evaluate",
    "sklearn": "evaluate",
    "scipy": "evaluate",
    "h5py": "data",
    "kagglehub": "data",
    "fastapi": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "h11": "serve",
    "python_multipart": "serve",
    "prometheus_client": "serve",
    "pydicom": "dicom",
    "requests": "dicom",
    "nibabel": "nifti",
}
Command = Train | Evaluate | Folds | Compare | Predict | Explain | Quantize | Audit | Data | Models | Dicom | Serve
GROUPS: dict[str, dict[str, type]] = {
    "Use": {"predict": Predict, "explain": Explain, "serve": Serve, "models": Models},
    "Hospital": {"dicom": Dicom},
    "Train and measure": {
        "train": Train,
        "evaluate": Evaluate,
        "folds": Folds,
        "compare": Compare,
        "quantize": Quantize,
    },
    "Data": {"data": Data, "audit": Audit},
}
"""The commands, as the help lists them."""
EXAMPLES = """\
  braintumor predict scan.png
  braintumor explain study/ --out explanations
  braintumor serve
  braintumor train --model resnet --data-dir Brain_Tumor_Data"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0 for done, 2 for bad input or usage, 3 for done with findings, 130 for interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names in CSV need not be UTF-8, and no character ends a command
        is_utf_8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf_8 else "backslashreplace")
    try:
        command = _parsed(sys.argv[1:] if arguments is None else arguments)
        if isinstance(command, Predict | Explain | Dicom | Serve):
            hide()  # from the processes that decode, where the system confines these badly
        return command.run()
    except BrainTumorError as error:
        say_aside(*f"braintumor: {error}".split("\n"))
        return BAD_INPUT
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        say_aside(f"braintumor: {MissingExtraError(extra, str(error.name))}")
        return BAD_INPUT
    except KeyboardInterrupt:
        say_aside("braintumor: interrupted")
        return INTERRUPTED


def _parsed(arguments: list[str]) -> Command:
    """Return the command that arguments ask for; where they ask for none, say so with the arguments made visible.

    Raises:
        SystemExit: help or the version was asked for, or the arguments are no command.
    """
    _answer_without_command(arguments)
    parse = functools.partial(tyro.cli, Command, prog="braintumor", config=(OmitSubcommandPrefixes, FlagCreatePairsOff))
    shown = [visible(argument) for argument in arguments]
    try:
        command: Command = parse(args=arguments, console_outputs=arguments == shown)
    except SystemExit:
        if arguments != shown:
            parse(args=shown)
        raise
    return command


def _answer_without_command(arguments: list[str]) -> None:
    """Print the overview or the version where these are asked for, and name the nearest command where there is none.

    Raises:
        SystemExit: so; it was no call of a command.
    """
    first = arguments[0] if arguments else ""
    commands = [name for group in GROUPS.values() for name in group]
    if first in commands:
        return
    if first == "--version":
        say(f"braintumor {__version__}")
        raise SystemExit(DONE)
    if first in ("", "-h", "--help"):
        (say if first else say_aside)(*_overview())
        raise SystemExit(DONE if first else BAD_INPUT)
    nearest = difflib.get_close_matches(first, commands, n=1)
    advice = f"did you mean {nearest[0]}?" if nearest else f"choose one of {', '.join(commands)}"
    say_aside(f"braintumor: no command {first}; {advice}", "braintumor --help lists the commands")
    raise SystemExit(BAD_INPUT)


def _overview() -> list[str]:
    """Return the lines of the help about all commands."""
    lines = [
        "usage: braintumor COMMAND [options]",
        "",
        f"Classify brain MRI slices, show why and how sure. {DISCLAIMER}",
    ]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<10}{(command.__doc__ or '').splitlines()[0]}" for name, command in commands.items()]
    return [
        *lines,
        "",
        "In a shell:",
        *EXAMPLES.splitlines(),
        "",
        "braintumor COMMAND --help says more; --version prints the version.",
    ]


def script() -> None:
    """Run the installed command; a closed pipe (`| head`) ends it quietly, and no crash leaves its memory on the disk.

    SIGPIPE stays ignored, as Python has it: it would also end the program when an archive or a browser goes away.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _keep_fonts()
    try:
        try:
            status = main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        status = CLOSED_PIPE
    sys.exit(status)


def _keep_fonts() -> None:
    """Let matplotlib keep its list of fonts in our cache where there is no home folder; it complains otherwise."""
    cache = os.environ.get("BRAINTUMOR_CACHE")
    if cache and user_folder("XDG_CONFIG_HOME", ".config") is None:
        os.environ.setdefault("MPLCONFIGDIR", str(Path(cache).absolute() / "matplotlib"))
