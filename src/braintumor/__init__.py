"""Classify brain MRI slices, show why and how sure. Research use only, not a medical device."""

import os

from braintumor.errors import BrainTumorError
from braintumor.inference import Prediction, predict
from braintumor.model import Model
from braintumor.read import read
from braintumor.scan import Scan
from braintumor.zoo import load

__version__ = "0.1.0"

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime reports to its maker otherwise; no module above has loaded it

__all__ = ["BrainTumorError", "Model", "Prediction", "Scan", "__version__", "load", "predict", "read"]
