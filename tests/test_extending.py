"""The examples of docs/extending.md, run as they stand; and what is said to somebody who gets a part wrong."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from palign import MixturePolicy, PALRewardModel, register_head
from palign.data import sources
from palign.models import pal_config
from palign.models.heads import FixedPointHead
from palign.models.pal_config import PALConfig
from palign.trainers.fair_policy_trainer import _check_own_routes
from palign.trainers.mixture.start import LinearStart

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def sections() -> dict[str, list[str]]:
    """Heading → the Python blocks below it."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {
        heading: re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("extending")


@pytest.fixture(scope="module")
def run(sections: dict[str, list[str]], folder: Path) -> Any:
    """Run the blocks of a section; one namespace for all of them, as for a reader."""
    names: dict[str, Any] = {}

    def of(heading: str) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            for block in sections[heading]:
                exec(compile(block, f"{PAGE.name}: {heading}", "exec"), names)
        return names

    yield of
    pal_config.VARIANTS.pop("quality", None)


def test_a_reward_head(run: Any, folder: Path) -> None:
    found = run("A reward head")
    assert found["accuracy"] > 0.8 and isinstance(found["again"].head, found["QualityHead"])
    items, people = found["people"].items[:5], found["rows"].annotators().ids[:5]
    assert torch.equal(found["model"].score(None, items, people), found["again"].score(None, items, people))
    assert "quality.weight" in dict(found["again"].head.named_parameters())
    newcomers = found["people"].newcomers(3, seed=2).comparisons(5, seed=3)
    assert found["again"].fit_annotators(newcomers, embeddings=found["people"].items).weights.shape == (3, 2)


@pytest.mark.slow
def test_a_linear_head_and_an_aggregation_route(run: Any, folder: Path) -> None:
    found = run("A linear head")
    trainer = found["mixture_trainer"]
    gamma = trainer.start.responsibilities
    tastes = found["start"].population
    long_ones = [tastes.type_of(person) == "thorough" for person in trainer.annotators.ids]
    assert (gamma[:, 0] > 0.5)[torch.tensor(long_ones)].double().mean() > 0.7
    assert MixturePolicy.from_pretrained(folder / "outputs/extending/mixture").n_types == 2

    found = run("An aggregation route")
    assert {"equal", "merge", "ensemble", "reference", "pooled"} <= set(found["measured"])
    route = folder / "outputs/extending/fair/routes/equal"
    assert (route / "adapter_model.safetensors").is_file() and '"n_rows"' in (route / "route.json").read_text()
    assert found["fair_trainer"].builder.records["equal"]["n_rows"] == found["record"]["routes"]["equal"]["n_rows"]


def test_a_source_register(run: Any, folder: Path) -> None:
    found = run("A source register")
    # ann: 5 3 1 2 → AB AC AD BC differ by 2 and more, BD and CD do not; bo: 1 – 1 4 → DA DC do, AC does not
    assert sum(found["written"].values()) == 6 and dict(found["left_out"]) == {"rated alike": 3}
    assert set(found["films"].annotators().ids) <= {"ann", "bo"}
    sources.SOURCES.pop("films")


def test_every_python_block_is_run(sections: dict[str, list[str]]) -> None:
    assert {name for name, blocks in sections.items() if blocks} <= {
        "A reward head", "A linear head", "An aggregation route", "A source register",
    }  # fmt: skip


def test_heads_that_are_none() -> None:
    with pytest.raises(TypeError, match="subclass of palign.models.heads.PointHead"):
        register_head("linear", torch.nn.Linear)
    with pytest.raises(ValueError, match="'fixed' is a head of palign"):
        register_head("fixed", FixedPointHead)
    with pytest.raises(ValueError, match="variant is 'qualty'.*register_head"):
        PALConfig(hidden_size=3, variant="qualty")


def test_a_saved_model_runs_no_code_to_find_its_head(tmp_path: Path) -> None:
    class Own(FixedPointHead):
        pass

    register_head("own", Own)
    try:
        from palign import AnnotatorIndex

        model = PALRewardModel.from_embeddings(hidden_size=3, annotators=AnnotatorIndex(["a"]), variant="own")
        model.save_pretrained(tmp_path)
    finally:
        pal_config.VARIANTS.pop("own")
    assert '"variant": "own"' in (tmp_path / "config.json").read_text()
    with pytest.raises(ValueError, match="variant is 'own'.*register_head"):
        PALRewardModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("gamma", "n_types", "words"),
    [
        (torch.ones(3, 2) / 2, None, r"shape \(3, 2\); \(4, n_types\) is needed"),
        (torch.ones(4, 2), "auto", "sum to 1 in every row"),
        (torch.ones(4, 2) / 2, 3, "n_types is 3, and the linear head gives 2"),
    ],
)
def test_linear_heads_that_give_something_else(gamma: torch.Tensor, n_types: int | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LinearStart(gamma.double()).check(4, n_types)


@pytest.mark.parametrize("name", ["distill", "pooled", "type_0", "my route", "../x"])
def test_route_names_that_are_taken_or_no_names(name: str) -> None:
    with pytest.raises(ValueError, match="own_routes names a route"):
        _check_own_routes({name: lambda builder: {}}, ["type_0", "type_1"])
