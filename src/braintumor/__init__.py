"""Classify brain MRI slices, show why and how sure. Research use only, not a medical device."""

from braintumor.errors import BrainTumorError
from braintumor.inference import Prediction, predict
from braintumor.model import Model, load
from braintumor.read import read
from braintumor.scan import Scan

__version__ = "0.1.0"

__all__ = ["BrainTumorError", "Model", "Prediction", "Scan", "__version__", "load", "predict", "read"]
