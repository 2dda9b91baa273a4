"""The pages: every one can be reached, says what is true of the code, and builds strictly."""

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "recipes" / "README.md"]
TRAINERS = ("pal_reward_trainer", "ppo_trainer", "grpo_trainer", "mixture_dpo", "fair_policy")
ORDER = ["Overview", "Quick start", "Expected data", "The method", "Logged metrics", "Customisation", "API"]  # TRL's
METRIC = re.compile(r"""f?"((?:objective|completions|groups|policy|mixture|rewards|critic|loss|clip_ratio)/[^"]*)\"""")
API_LINE = re.compile(r"^( *)- `(\.?[\w.]+)(\(.*\))`: ", re.MULTILINE)
MACHINE_PATH = re.compile(r"(^|[\s\"'=:(`])/(home|root|work|tmp|Users|mnt)/")


def section(page: str, heading: str) -> str:
    """The text below a heading of a page."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.split(rf"^## {re.escape(heading)}$", text, flags=re.MULTILINE)[1].split("\n## ")[0]


def documented_metrics(page: str) -> set[str]:
    """Names in the first column of the table of logged metrics, with <…> and a number or k for anything."""
    rows = re.findall(r"^\| (`.*?) \|", section(page, "Logged metrics"), flags=re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def is_documented(name: str, documented: set[str]) -> bool:
    patterns = (re.escape(item).replace("<name>", ".+").replace("type_k", r"type_\d+") for item in documented)
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def plain_signature(thing: Any) -> str:
    """Parameters and defaults without self and types: (a, *, b=None)."""
    parameters = [p for p in inspect.signature(thing).parameters.values() if p.name not in ("self", "cls")]
    bare = [p.replace(annotation=p.empty) for p in parameters]
    words = str(inspect.Signature(bare)).replace("'", '"')
    return re.sub(r"<factory>|<function \w+ at \w+>", "<factory>", words)


@pytest.mark.parametrize("page", TRAINERS)
def test_trainer_pages_are_in_the_order_of_trl(page: str) -> None:
    headings = re.findall(r"^## (.+)$", (DOCS / f"{page}.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [heading for heading in headings if heading in ORDER] == ORDER


def in_the_api() -> set[str]:
    """What the page of the API takes from docstrings."""
    return set(re.findall(r"^::: ([\w.]+)$", (DOCS / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE))


@pytest.mark.parametrize("name", sorted(in_the_api()))
def test_every_entry_of_the_api_is_there_and_has_a_docstring(name: str) -> None:
    module, _, last = name.rpartition(".")
    thing = getattr(importlib.import_module(module), last)
    assert (inspect.getdoc(thing) or "").strip(), name


def test_every_public_name_but_configurations_is_in_the_api() -> None:
    import palign

    public = {f"{module}.{name}" for name, module in palign._MODULE_OF.items() if not name.endswith("Config")}
    assert public - in_the_api() == {"palign.data.arguments.DataArguments"}  # options: `palign reward --help` has them


def test_links_into_the_api_name_what_is_there() -> None:
    linked = {name for path in PAGES for name in re.findall(r"\(api\.md#([\w.]+)\)", path.read_text(encoding="utf-8"))}
    assert len(linked) > 15 and linked <= in_the_api()


@pytest.mark.parametrize("page", TRAINERS)
def test_an_api_that_lists_signatures_lists_them_as_they_are(page: str) -> None:
    owner = None
    for indent, name, signature in API_LINE.findall(section(page, "API")):
        if indent:
            thing = inspect.getattr_static(owner, name.removeprefix("."))
            thing = getattr(thing, "__func__", thing)
        else:
            module, _, last = name.rpartition(".")
            thing = owner = getattr(importlib.import_module(module), last)
        assert signature == plain_signature(thing), name


@pytest.mark.parametrize(
    ("page", "sources"),
    [
        ("ppo_trainer", ("policy/metrics", "pal_ppo_trainer")),
        ("grpo_trainer", ("policy/metrics", "pal_grpo_trainer")),
        ("mixture_dpo", ("mixture/metrics", "mixture_dpo_trainer")),
    ],
)
def test_every_metric_that_the_source_names_is_documented(page: str, sources: tuple[str, ...]) -> None:
    documented, named = documented_metrics(page), set()
    for source in sources:
        text = (ROOT / "palign" / "trainers" / f"{source}.py").read_text(encoding="utf-8")
        named |= {re.sub(r"\{k\}", "0", name).replace("{name}", "x") for name in METRIC.findall(text)}
    assert len(named) > 5
    assert [name for name in sorted(named) if not is_documented(name, documented)] == []


@pytest.mark.slow
def test_what_a_run_logs_is_documented(tmp_path: Path) -> None:
    """Every key that a tiny run of each trainer logs stands in the table of its page."""
    from tests.worlds.tiny_runs import logged_by

    at_the_end = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss"}
    for page in TRAINERS:
        logged = logged_by(page, tmp_path / page) - at_the_end - {"step"}
        assert logged, page
        documented = documented_metrics(page)
        assert [name for name in sorted(logged) if not is_documented(name, documented)] == [], page


def nav_pages() -> set[str]:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    return set(re.findall(r"(\w+\.md)$", text, flags=re.MULTILINE))


def test_every_page_can_be_reached() -> None:
    made = {"recipes.md", "example.md"}  # by scripts/docs_pages.py
    assert nav_pages() - made == {path.name for path in DOCS.glob("*.md")}


def test_no_page_stands_twice_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r": (\w+\.md)$", text[text.index("nav:") :], flags=re.MULTILINE)
    titles = re.findall(r"^ +- ([^:\n]+):", text[text.index("nav:") :], flags=re.MULTILINE)
    assert len(named) == len(set(named)) > 20 and len(titles) == len(set(titles))


def test_pictures_that_pages_name_are_there() -> None:
    for path in PAGES:
        for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / name).is_file(), f"{path.name}: {name}"
            assert "http" not in re.sub(
                r"http://www\.w3\.org/\S+", "", (path.parent / name).read_text(encoding="utf-8")
            )


def test_links_of_pages_and_readmes_lead_somewhere() -> None:
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
            assert "://" in target or (path.parent / target).exists(), f"{path.name}: {target}"


def test_files_that_are_named_exist() -> None:
    named = re.compile(r"`((?:palign|recipes|scripts|tests|docs|accelerate_configs)/[\w/.-]+\.(?:py|md|yaml|ipynb))")
    for path in PAGES:
        missing = [n for n in named.findall(path.read_text(encoding="utf-8")) if not (ROOT / n).exists()]
        assert missing == [], path.name


def test_no_page_and_no_notebook_holds_a_path_of_a_machine() -> None:
    for path in [*DOCS.iterdir(), *PAGES, *(ROOT / "recipes").rglob("*.yaml")]:
        if path.is_file():
            found = [line for line in path.read_text(encoding="utf-8").splitlines() if MACHINE_PATH.search(line)]
            assert found == [], path.name


def test_the_notebook_is_stored_as_it_was_run() -> None:
    notebook = json.loads((DOCS / "example.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells) and len(cells) < len(notebook["cells"])
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds == {"stream"}


def test_the_notebook_runs_from_rows_to_report(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from run_notebook import run_cells
    finally:
        sys.path.pop(0)
    notebook = json.loads((DOCS / "example.ipynb").read_text(encoding="utf-8"))
    printed = run_cells(notebook, tmp_path)
    accuracy = dict(re.findall(r"^(pooled|pal): accuracy ([\d.]+)", printed[3], flags=re.MULTILINE))
    assert float(accuracy["pal"]) > float(accuracy["pooled"]) + 0.15
    assert (tmp_path / "outputs" / "example" / "report.md").is_file() and "worst served" in printed[-1]


def test_the_site_builds_strictly_and_needs_no_network(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    offline = {"NO_MKDOCS_2_WARNING": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ | offline)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    loaded = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?(https?://[^\"> ]+)", page)
    assert [address for address in loaded if "canonical" not in address] == []
    assert "<math" in (tmp_path / "mixture_dpo.html").read_text(encoding="utf-8")
    assert 'id="palign.models.pal.PALRewardModel.score"' in (tmp_path / "api.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in page
    assert (tmp_path / "recipes.html").is_file() and "worst served" in (tmp_path / "example.html").read_text()
