"""Sphinx's configuration; `nox -s docs` builds with warnings as errors."""

from importlib.metadata import version as version_of
from types import UnionType
from typing import Any

from sphinx.domains.python import PythonDomain

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


class _Domain(PythonDomain):
    """Several faces have a `WebSocket`: where the module has none, that of `anyws` is meant."""

    def find_obj(
        self, env: Any, modname: str | None, classname: str | None, name: str, *others: Any
    ) -> Any:
        matches = super().find_obj(env, modname, classname, name, *others)
        return [match for match in matches if match[0] == f"anyws.{name}"] or matches


def tell_what_an_alias_is(
    app: Any, what: str, name: str, value: object, options: Any, lines: list[str]
) -> None:
    """In the place of what the class of the alias says of itself."""
    if what == "data" and isinstance(value, (str, UnionType)):
        lines[:] = [f"alias of ``{str(value).replace('collections.abc.', '')}``"]


def setup(app: Any) -> None:
    app.add_domain(_Domain, override=True)
    app.connect("autodoc-process-docstring", tell_what_an_alias_is)
