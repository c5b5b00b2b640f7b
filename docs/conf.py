"""Sphinx configuration: `make docs` turns the pages into HTML."""

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "braintumor"
author = "The braintumor authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generate_cli.py"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
myst_heading_anchors = 3
html_theme = "furo"
html_title = "braintumor"


def setup(app: Sphinx) -> None:
    """Show sequence diagrams as text; GitHub draws them."""
    app.add_lexer("mermaid", TextLexer)
