"""Training of models: networks, recipes, the loop, and the model folder that it writes. Needs torch.

torch is imported here first of all, from a folder of our own: one of the libraries that it loads, NVIDIA's cuSPARSELt,
looks for libcuda.so.1 in the working folder, which may be a stranger's.
"""

from contextlib import chdir
from pathlib import Path

with chdir(Path(__file__).parent):
    import torch  # noqa: F401
