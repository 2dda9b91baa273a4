"""A mixture for vLLM: adapters within its limits, who is served by which, the line that starts it."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from peft import PeftConfig
from safetensors.torch import load_file

from palign.serving.vllm import export_for_vllm, launch_line

SAVED = Path(__file__).parents[1] / "saved"


def test_adapters_lie_with_their_tokenizer_and_people_have_routes(tmp_path: Path) -> None:
    done = export_for_vllm(SAVED / "mixture", tmp_path / "served", fair_path=SAVED / "fair")
    for name, source in {"type_0": "mixture/type_0", "type_1": "mixture/type_1", "fair": "fair"}.items():
        folder = tmp_path / "served" / name
        assert {"tokenizer.json", "adapter_config.json"} <= {path.name for path in folder.iterdir()}
        assert PeftConfig.from_pretrained(str(folder)).modules_to_save is None
        ours, theirs = (load_file(f / "adapter_model.safetensors") for f in (folder, SAVED / source))
        assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in ours)
    routes = json.loads((tmp_path / "served" / "routes.json").read_text())
    assert routes["people"] == {"p0": "type_0", "p1": "type_1", "p2": "type_0", "p3": "type_1"}
    assert routes["strangers"] == "fair" and routes["adapters"] == ["type_0", "type_1", "fair"]
    assert (tmp_path / "served" / "launch.sh").read_text().endswith(f"{done.launch}\n")
    words = shlex.split(done.launch)
    assert words[:2] == ["vllm", "serve"] and words[words.index("--max-lora-rank") + 1] == "8"  # vLLM knows no rank 2
    assert words[words.index("--lora-modules") + 3] == f"fair={tmp_path / 'served' / 'fair'}"


def test_without_a_fair_policy_strangers_have_shares(tmp_path: Path) -> None:
    done = export_for_vllm(SAVED / "mixture", tmp_path)
    shares = json.loads((tmp_path / "routes.json").read_text())["strangers"]
    assert shares.keys() == {"type_0", "type_1"} and sum(shares.values()) == pytest.approx(1)
    assert any("No --fair_path" in note for note in done.notes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"modules_to_save": ["lm_head"]}, "holds whole modules"),
        ({"use_dora": True}, "it is DoRA"),
        ({"bias": "all"}, "it holds biases"),
        ({"r": 1024}, "its rank is 1024, and vLLM takes up to 512"),
        ({"rank_pattern": {"q_proj": 4}}, "ranks of their own"),
    ],
)
def test_what_vllm_does_not_take_is_named_and_nothing_is_written(changes: dict, reason: str, tmp_path: Path) -> None:
    shutil.copytree(SAVED / "mixture", tmp_path / "mixture")
    path = tmp_path / "mixture" / "type_1" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=f"vLLM does not take the adapter type_1: .*{reason}"):
        export_for_vllm(tmp_path / "mixture", tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_a_rank_between_two_that_vllm_knows_takes_the_next() -> None:
    assert "--max-lora-rank 32 --max-loras 1 " in launch_line("base", {"a b": "p"}, 17)
    assert "--lora-modules 'a b=p'" in launch_line("base", {"a b": "p"}, 17)
