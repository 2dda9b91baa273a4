"""The shape of the house: imports point downward only, and a few things are not done anywhere."""

import ast
import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

import palign

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "palign").rglob("*.py"))
EVERYTHING = [*PACKAGE, *sorted((ROOT / "recipes").rglob("*.py")), *sorted((ROOT / "scripts").rglob("*.py"))]

BELOW = ("functional", "contents", "reading", "writing", "parallel", "models", "data", "conditioning", "rewards")
# floor → what of palign it may import. A model that knows people reads people and rows: the documented exception.
MAY_IMPORT = {
    "functional": ("functional",),
    "contents": (),
    "reading": (),
    "writing": ("contents",),
    "parallel": ("parallel",),
    "data": ("functional", "contents", "reading", "writing", "data"),
    "models": (
        "functional",
        "contents",
        "reading",
        "writing",
        "parallel",
        "models",
        "data.annotators",
        "data.image_folder",
        "data.preferences",
        "data.pseudonyms",
        "data.rendering",
        "data.turns",
    ),
    "conditioning": ("functional", "models", "data"),
    "rewards": ("functional", "models", "data", "conditioning"),
    "questions": ("functional", "models", "data"),
    "trainers": (*BELOW, "trainers"),
    "evaluation": (*BELOW, "evaluation"),
    "integrations": (*BELOW, "integrations"),  # other people's trainers
    "serving": (*BELOW, "integrations", "serving"),
    "auto_classes": ("models.classifier",),
    # what recipes start from and end with: nothing but recipes and scripts imports it
    "pipelines": (*BELOW, "questions", "cli.parser", "cli.plain_parser", "trainers", "evaluation", "pipelines"),
    "cli": ("cli", "data.guard", "reading"),  # it runs recipes, by their files, and imports none
    "__main__": ("cli.command",),
}
FLOOR_0_MAY_IMPORT = {"torch", "scipy", "numpy", "palign"} | set(sys.stdlib_module_names)


def imported_modules(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, dotted module) of every import, also of those inside functions; `from a import b` counts as a.b.

    `import palign` counts as the names that are then taken from it: palign.__version__, say.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if alias.name != "palign"]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "palign":
            found.append((node.lineno, f"palign.{node.attr}"))
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            found += [(node.lineno, f"{prefix}.{alias.name}") for alias in node.names]
    return found


def floor_violations(floor: str, tree: ast.AST) -> list[str]:
    """Imports that a file of this floor may not have."""
    allowed = ("palign.__version__", *(f"palign.{name}" for name in MAY_IMPORT[floor]))
    wrong = []
    for line, module in imported_modules(tree):
        first = module.split(".")[0]
        is_ours = first in ("palign", "recipes", "scripts", "tests", "")
        downward = any(module == name or module.startswith(name + ".") for name in allowed)
        if (is_ours and not downward) or (floor == "functional" and first not in FLOOR_0_MAY_IMPORT):
            wrong.append(f"line {line}: {module}")
    return wrong


def floor_of(path: Path) -> str:
    return path.relative_to(ROOT / "palign").parts[0].removesuffix(".py")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    if path == ROOT / "palign" / "__init__.py":
        assert not [
            m
            for _, m in imported_modules(ast.parse(path.read_text()))
            if m not in ("importlib", "palign.auto_classes.register_when_loaded")
        ]
        return
    assert floor_violations(floor_of(path), ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    ("floor", "line", "n_wrong"),
    [
        ("functional", "import transformers", 1),
        ("functional", "from palign.data.annotators import AnnotatorIndex", 1),
        ("functional", "import math, torch, scipy.optimize", 0),
        ("data", "def f():\n    from palign.models import pal", 1),
        ("data", "from palign import PALRewardModel", 1),
        ("data", "from ..models import pal", 1),
        ("models", "from palign.data.preferences import Preferences", 0),
        ("models", "from palign.data import synthetic", 1),
        ("evaluation", "from palign.trainers.pal_reward_trainer import PALRewardTrainer", 1),
        ("trainers", "from palign.evaluation import report", 1),
        ("rewards", "import recipes.ppo_pal", 1),
        ("trainers", "from palign.pipelines import mixture", 1),
        ("evaluation", "def f():\n    import palign.pipelines.fair", 1),
        ("cli", "from palign.pipelines import fair", 1),
        ("pipelines", "from palign.trainers.mixture import e_step", 0),
        ("parallel", "from palign.models import pal", 1),
        ("models", "from palign.parallel import sharded", 0),
        ("evaluation", "import palign\npalign.__version__", 0),
        ("evaluation", "import palign\npalign.PALRewardTrainer", 1),
    ],
)
def test_the_floor_check_sees_what_it_should(floor: str, line: str, n_wrong: int) -> None:
    assert len(floor_violations(floor, ast.parse(line))) == n_wrong


def test_every_floor_is_known() -> None:
    assert {floor_of(path) for path in PACKAGE} - {"__init__"} <= set(MAY_IMPORT)


def imports_at_load(tree: ast.Module, modules: Collection[str]) -> set[str]:
    """Modules of ours that are imported as the file is: not inside a function, not for type checkers alone."""
    found: set[str] = set()
    parts: list[ast.AST] = [tree]
    while parts:
        part = parts.pop()
        if isinstance(part, ast.Import):
            found |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            names = {f"{part.module}.{alias.name}" for alias in part.names}
            found |= (names & set(modules)) or {part.module or ""}
        elif isinstance(part, ast.If) and "TYPE_CHECKING" in ast.unparse(part.test):
            parts += part.orelse
        elif not isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            parts += ast.iter_child_nodes(part)
    return found & set(modules)


def circles(arrows: Mapping[str, Collection[str]]) -> set[str]:
    """Whoever lies on a circle, or between two: nodes are taken away while one has no arrow out, or none in."""
    left = {node: set(targets) & set(arrows) for node, targets in arrows.items()}
    while True:
        reached = set().union(*left.values())
        ends = {node for node, targets in left.items() if not targets or node not in reached}
        if not ends:
            return set(left)
        left = {node: targets - ends for node, targets in left.items() if node not in ends}


def arrows_within(folder: str, imports: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
    """A folder as a plan: its files and sub-folders, and who of them imports whom."""
    depth, plan = folder.count(".") + 2, {}
    for module, targets in imports.items():
        if module.startswith(f"{folder}."):
            room = ".".join(module.split(".")[:depth])
            others = {".".join(name.split(".")[:depth]) for name in targets if name.startswith(f"{folder}.")}
            plan[room] = plan.get(room, set()) | others - {room}
    return plan


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    modules = {dotted(path): path for path in PACKAGE if path.stem != "__init__"}
    return {name: imports_at_load(ast.parse(path.read_text()), modules) for name, path in modules.items()}


def test_no_module_imports_itself_by_a_way_round(imports: dict[str, set[str]]) -> None:
    assert circles(imports) == set()


def test_no_folder_has_rooms_that_import_each_other(imports: dict[str, set[str]]) -> None:
    """A courtyard may know its door's config, and the door the courtyard; never both the same file."""
    folders = {name.rpartition(".")[0] for name in imports}
    assert len(folders) > 20
    assert {folder: circles(arrows_within(folder, imports)) for folder in folders} == {f: set() for f in folders}


def test_the_circle_check_sees_what_it_should() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == set()
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b", "c"}
    assert circles({"a": {"a"}}) == {"a"}
    lines = (
        "import p.a\nfrom p import b\nfrom p.c import X\nif TYPE_CHECKING:\n    import p.d\ndef f():\n    import p.e"
    )
    assert imports_at_load(ast.parse(lines), {"p.a", "p.b", "p.c", "p.d", "p.e"}) == {"p.a", "p.b", "p.c"}
    far = {"p.t.door": {"p.t.yard.x"}, "p.t.yard.x": {"p.u.y"}, "p.t.yard.z": {"p.t.door"}, "p.u.y": set()}
    assert arrows_within("p.t", far) == {"p.t.door": {"p.t.yard"}, "p.t.yard": {"p.t.door"}}


def test_no_folder_holds_more_than_twenty_modules() -> None:
    """What a door alone needs stands in a courtyard: ARCHITECTURE.md."""
    folders = Counter(path.parent for path in PACKAGE if path.stem != "__init__")
    assert {str(folder.relative_to(ROOT)): n for folder, n in folders.items() if n > 20} == {}


def test_sub_packages_have_empty_inits() -> None:
    inits = [path for path in PACKAGE if path.name == "__init__.py" and path.parent != ROOT / "palign"]
    assert {path.parent for path in inits} == {path.parent for path in PACKAGE} - {ROOT / "palign"}
    assert [path for path in inits if path.read_text() != ""] == []


def test_no_module_is_called_utils() -> None:
    assert [path for path in EVERYTHING if path.stem in ("utils", "util", "helpers", "misc")] == []


def forbidden(tree: ast.AST) -> list[str]:
    """Ways to run code out of a data or model file: pickles and remote code."""
    found = []
    for line, module in imported_modules(tree):
        if module.split(".")[0] in ("pickle", "cPickle", "dill", "joblib", "cloudpickle"):
            found.append(f"line {line}: import of {module}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in ("torch.load", "np.load", "numpy.load"):
            safe = any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords)
            if called == "torch.load" or not safe:
                found.append(f"line {node.lineno}: {called} without allow_pickle=False")
        for keyword in node.keywords:
            if keyword.arg in ("trust_remote_code", "allow_pickle") and ast.unparse(keyword.value) == "True":
                found.append(f"line {node.lineno}: {keyword.arg}=True")
    return found


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_and_no_remote_code(path: Path) -> None:
    assert forbidden(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load('x')",
        "np.load('x')",
        "np.load('x', allow_pickle=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
    ],
)
def test_the_pickle_check_sees_what_it_should(line: str) -> None:
    assert forbidden(ast.parse(line)) != []


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_floor_0_leaves_transformers_unloaded() -> None:
    modules = [dotted(path) for path in PACKAGE if floor_of(path) == "functional" and path.stem != "__init__"]
    lines = [f"import {name}" for name in modules] + ["import sys", "print('transformers' in sys.modules)"]
    assert modules and run_python("\n".join(lines)) == "False"


def test_importing_palign_is_instant() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import palign; passed = time.perf_counter() - start\n"
        "print(passed, any(name in sys.modules for name in ('torch', 'numpy', 'pandas', 'transformers')))"
    )
    runs = [run_python(code).split() for _ in range(3)]
    assert {heavy for _, heavy in runs} == {"False"}
    assert min(float(seconds) for seconds, _ in runs) < 0.3


def test_every_public_name_resolves() -> None:
    assert palign.__all__[0] == "__version__" and len(set(palign.__all__)) == len(palign.__all__)
    assert set(palign.__all__) <= set(dir(palign))
    for name in palign.__all__[1:]:
        module = importlib.import_module(palign._MODULE_OF[name])
        assert getattr(palign, name) is getattr(module, name)


def test_a_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_preference'.*load_preferences"):
        palign.load_preference  # noqa: B018
