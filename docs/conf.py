"""The documentation site: ``sphinx-build -W docs docs/_build``, or ``nox -s docs``.

Pages are Markdown (MyST); notebooks are shown with the outputs that are stored in them; the API
reference comes from docstrings. Formulas become MathML, which browsers draw by themselves, so that
no page loads anything from elsewhere.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from monai_histodiff import __version__  # noqa: E402

project = "monai-histodiff"
author = "The monai-histodiff maintainers"
copyright = f"{author}, Apache-2.0"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # the Zoo's template of a README skips levels
highlight_language = "none"  # of blocks that name none: tables, shell
nb_execution_mode = "off"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
python_maximum_signature_line_length = 80

toc_object_entries = False

html_theme = "pydata_sphinx_theme"
html_title = f"monai-histodiff {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {
    "logo": {"text": "monai-histodiff"},
    "header_links_before_dropdown": 4,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}


def _mathml(self: Any, node: nodes.math | nodes.math_block, block: bool) -> None:
    text = node.astext()
    if block and "&" in text:
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    formula = tex2mathml(text, as_block=block)
    self.body.append(f'<div class="formula" tabindex="0">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def _inline(self: Any, node: nodes.math) -> None:
    _mathml(self, node, block=False)


def _block(self: Any, node: nodes.math_block) -> None:
    _mathml(self, node, block=True)


def _mended(app: Sphinx, page: str, template: str, context: Any, doctree: Any) -> None:
    """Long signatures as lines, which Sphinx writes as a list of definitions without terms; heads
    of columns without a name as plain cells.
    """

    def lines(found: re.Match[str]) -> str:
        return f'<span class="lines">{found[1].replace("dd>", "span>")}</span>'

    if "body" in context:
        context["body"] = re.sub(
            r"<dl>\n((?:<dd>.*?</dd>\n)+)</dl>", lines, context["body"], flags=re.S
        ).replace('<th class="head"><p></p></th>', "<td></td>")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer of formulas, and what a screen reader needs."""
    app.connect("html-page-context", _mended)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
