"""Sphinx configuration: MyST Markdown, furo, docstrings of the package, and tables made from its own data."""

from __future__ import annotations

import sys
from pathlib import Path

import backroads

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # whose scripts import one another

project = "backroads"
author = "The backroads developers"
copyright = "The backroads developers"
version = release = backroads.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "from_code",
    "mathml",  # formulas without a script and without a network
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext", "sg_execution_times.rst"]

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # torch's own docstrings are not ours to repeat
napoleon_use_ivar = True
napoleon_use_param = False  # "decay, amp: ..." is one entry
napoleon_attr_annotations = False  # "numpy.bytes_" would be a link

smartquotes_action = "qe"  # leaves the dashes of flags alone

html_theme = "furo"
html_title = "backroads"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_math_renderer = "mathml"
html_copy_source = False

# Every script of the gallery runs when the pages are built; one that fails, fails the build.
sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "run_stale_examples": True,  # the library may have changed
}
