"""How the pages become HTML: `make docs`."""

project = "braintumor"
author = "The braintumor authors"
extensions = ["myst_parser"]
exclude_patterns = ["generate_cli.py"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "braintumor"
