"""How models are trained: networks, recipes, the loop, and what a run leaves behind. Needs torch.

torch is imported here first of all, from a folder of our own: one of the libraries that it loads, NVIDIA's cuSPARSELt,
looks for libcuda.so.1 in the working folder, which may be a stranger's.
"""

from pathlib import Path

from braintumor.files import working_in

with working_in(Path(__file__).parent):
    import torch  # noqa: F401
