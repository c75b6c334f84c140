"""Configuration of the documentation; built by ``make docs``."""

import hybridflow

project = "hybridflow"
author = "the hybridflow maintainers"
copyright = "2026, the hybridflow maintainers"
release = version = hybridflow.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
templates_path: list[str] = []
exclude_patterns = ["images"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = False
# Looking names up in other projects' documentation needs the network: links only where it is there.
intersphinx_mapping: dict[str, tuple[str, None]] = {}
html_theme = "furo"
html_title = "hybridflow"
html_static_path: list[str] = []
