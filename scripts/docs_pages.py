"""Two pages of the site that lie elsewhere (recipes/README.md, the notebook docs/example.ipynb), and formulas.

Called by mkdocs (`hooks` in mkdocs.yml).
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FORMULA = re.compile(r"^```math\n(?P<latex>.*?)\n```$", re.M | re.S)
LINKS = {"](../recipes/README.md)": "](recipes.md)", "](example.ipynb)": "](example.md)", "](../docs/": "]("}


def on_files(files: Any, config: Any) -> Any:
    """Add the two pages; the notebook itself is no page."""
    from mkdocs.structure.files import File

    recipes = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    notebook = ROOT / "docs" / "example.ipynb"
    files.append(File.generated(config, "recipes.md", content=recipes))
    files.append(File.generated(config, "example.md", content=notebook_page(notebook.read_text(encoding="utf-8"))))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as they stand in the repository → links of the site; formulas → MathML."""
    for here, there in LINKS.items():
        markdown = markdown.replace(here, there)
    return FORMULA.sub(lambda match: formula(match["latex"]), markdown)


def formula(latex: str) -> str:
    """LaTeX as MathML, which a browser draws without a script; as code where the converter is not installed."""
    try:
        from latex2mathml.converter import convert
    except ImportError:
        return f"```text\n{latex}\n```"
    return f"<div>{convert(' '.join(latex.split()), display='block')}</div>"


def notebook_page(text: str) -> str:
    """Cells of a notebook as Markdown: text as it is, code in a block, what it printed in another."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join("".join(output.get("text", [])) for output in cell["outputs"])
        parts += [f"```text\n{printed.rstrip()}\n```"] if printed else []
    return "\n\n".join(parts) + "\n"
