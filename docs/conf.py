"""Sphinx's configuration; `nox -s docs` builds with warnings as errors."""

from importlib.metadata import version as version_of

project = "anyws"
author = "The anyws authors"
project_copyright = author
version = release = version_of("anyio-websocket")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = f"anyws {version}"

# In docstrings, `name` is a link where it is one of ours.
default_role = "py:obj"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
