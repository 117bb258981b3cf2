"""The documentation: ``make docs`` builds it into docs/_build/html, with every warning an error."""

import dreamstill

project = "dreamstill"
author = "The dreamstill developers"
copyright = author
version = release = dreamstill.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
smartquotes = False  # it would turn --option into a dash

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
maximum_signature_line_length = 80

html_theme = "furo"
html_title = "dreamstill"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
