"""How Sphinx builds the documentation: `make docs` writes the site to build/docs/html."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import fastbn

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
# The gallery's pages import the networks and the data of examples/.
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent / "examples")]

project = "fastbn"
author = "the authors of fastbn"
copyright = "the authors of fastbn"
version = release = fastbn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "mathml",
    "torch_reference",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_templates", "_extensions", "gallery/*", "generated/gallery/*.ipynb", "generated/gallery/*.py"]
nitpicky = True
# Arguments that are named as some module or function is, and attributes that only an instance has.
nitpick_ignore = [("py:obj", name) for name in ("clip", "copy", "training", "moments_")]
default_role = "autolink"  # of numpydoc: a link where the name is documented, else code

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say the types
# The module of MPI ranks is documented without an MPI library, and that of PyTorch's models by `torch_reference`.
autodoc_mock_imports = ["mpi4py"]
numpydoc_show_class_members = False  # the template of classes puts methods on the class's page
numpydoc_xref_param_type = False

myst_enable_extensions = ["colon_fence", "dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "generated/gallery",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "reset_modules": ("matplotlib", "gallery_style.reset"),
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_memory": False,
    "write_computation_times": False,
    "capture_repr": (),
    "min_reported_time": 0,
    "image_srcset": ["2x"],
    "default_thumb_file": None,
}

html_math_renderer = "mathml"
html_context = {"default_mode": "auto"}  # light or dark as the reader's system is
html_theme = "pydata_sphinx_theme"
html_title = "fastbn"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_prev_next": True,
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    # Not beside the gallery's pages, whose code needs the width.
    "secondary_sidebar_items": {page: ["page-toc"] for page in ("[!g]*", "guide", "generated/api/*")},
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": [], "start": [], "changelog": []}

INCLUDE = re.compile(r"```\{include\} (\S+)\n```\n")
# Pages of the repository that have a place in the site, under the names that they have there.
MOVED = {
    "../bench/README.md": "method.md",
    "../bench/NOTES.md": "attempts.md",
    "bench/README.md": "method.md",
    "bench/NOTES.md": "attempts.md",
    "docs/design.md": "design.md",
    "docs/stability.md": "stability.md",
    "docs/trust.md": "trust.md",
}


def take_in_moved_pages(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put files outside docs/ in the place of the lines that include them, and let links lead to their pages."""
    included = INCLUDE.fullmatch(source[0])
    if included:
        source[0] = (HERE / included[1]).read_text(encoding="utf-8")
        app.env.note_dependency(str(HERE / included[1]))
    for old, new in MOVED.items():
        source[0] = source[0].replace(f"]({old})", f"]({new})")


def setup(app: Sphinx) -> None:
    """Connect what is defined here."""
    app.connect("source-read", take_in_moved_pages)
