"""Classify brain MRI slices, show why and how sure. Research use only, not a medical device."""

import os
import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):  # noqa: PTH120
    # `python -m braintumor` looks for all modules in the working folder first, which may be a stranger's data folder
    del sys.path[0]

from braintumor.errors import BrainTumorError, Refusal
from braintumor.io.read import read
from braintumor.io.scan import Scan
from braintumor.models.registry import load
from braintumor.models.session import Model
from braintumor.predictor import Prediction, Unreadable, predict

__version__ = "0.1.0"

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime reports to its maker otherwise; no module above has loaded it

__all__ = [
    "BrainTumorError",
    "Model",
    "Prediction",
    "Refusal",
    "Scan",
    "Unreadable",
    "__version__",
    "load",
    "predict",
    "read",
]
