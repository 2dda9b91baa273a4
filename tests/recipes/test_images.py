"""Rewards of images, from files to reports: people who like red and people who like blue are told apart."""

import json
from pathlib import Path

import pytest

from palign.cli.command import load_recipe
from tests.worlds.drawn_images import draw_images, judged_rows, save_tiny_clip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    kinds = draw_images(path / "pictures")
    save_tiny_clip(path / "clip")
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in judged_rows(kinds)))
    return path


def flags(world: Path, rows: str | Path, output: Path) -> list[str]:
    return [
        "--dataset_name", str(world / rows), "--image_folder", str(world / "pictures"),
        "--image_model", str(world / "clip"), "--output_dir", str(output),
    ]  # fmt: skip


def test_from_pictures_to_a_report_that_shows_them(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extra = ["--n_prototypes", "2", "--disable_tqdm", "true", "--use_cpu", "true"]
    summary = load_recipe("pal_reward").main([*flags(world, "rows.jsonl", out), *extra])
    assert summary["pal/accuracy"] > 0.8 > 0.65 > summary["pooled/accuracy"]
    likes = json.loads((out / "report.json").read_text())["figures"]["image_likes"]
    colours = [{shown["name"].split("/")[1].split("_")[0] for shown in record["most"]} for record in likes]
    assert sorted(colours, key=str) == [{"blue"}, {"red"}]
    assert "What each type likes" in (out / "report.html").read_text()
    held_out = (out / "held_out.jsonl").read_text().splitlines()
    assert json.loads(held_out[0])["chosen"].endswith(".png")
    judged = load_recipe("evaluate_fairness").main([
        *flags(world, out / "held_out.jsonl", tmp_path / "report"), "--model_path", str(out), "--use_cpu", "true",
    ])  # fmt: skip
    assert judged["out/accuracy"] == pytest.approx(summary["pal/accuracy"])
    everything = load_recipe("evaluate_fairness").main([
        *flags(world, "rows.jsonl", tmp_path / "report_2"), "--model_path", str(out), "--use_cpu", "true",
    ])  # fmt: skip
    assert everything["n_training_rows_left_out"] == 360 - len(held_out)
    other = save_tiny_clip(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="images as another encoder sees them; --image_model must be the encoder"):
        load_recipe("evaluate_fairness").main([
            "--dataset_name", str(out / "held_out.jsonl"), "--image_folder", str(world / "pictures"), "--image_model",
            str(other), "--model_path", str(out), "--output_dir", str(tmp_path / "report_3"), "--use_cpu", "true",
        ])  # fmt: skip
    asked = load_recipe("ask").main([*flags(world, "rows.jsonl", tmp_path / "asked"), "--model_path", str(out)])
    assert asked["n_questions"] == 3
    assert ".png" in (tmp_path / "asked" / "questions.csv").read_text()


@pytest.mark.parametrize(
    ("recipe", "given", "message"),
    [
        ("pal_reward", ["--image_folder", "x"], "--image_folder is given without --image_model"),
        ("pal_reward", ["--image_model", "x"], "--image_model is given without --image_folder"),
        ("pal_reward", ["--image_column", "x"], "--image_column names files of images"),
        ("pal_reward", ["--image_folder", "x", "--image_model", "y", "--embeddings", "z"], "are vectors or images"),
        ("pal_reward", ["--image_folder", "x", "--image_model", "y", "--model_name_or_path", "z"], "Give one"),
        ("em_dpo", ["--image_folder", "x", "--image_model", "y"], "policies are trained on text"),
        ("fair_policy", ["--image_folder", "x", "--image_model", "y"], "policies answer prompts of text"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(recipe: str, given: list[str], message: str, world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        load_recipe(recipe).main(["--dataset_name", str(world / "rows.jsonl"), *given, "--output_dir", str(tmp_path)])
    assert message in str(error.value)


def test_votes_on_images(world: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(world / "pictures").as_posix() for path in (world / "pictures").rglob("*.png"))
    lines = ["annotator_id,image,vote"]
    for person in range(12):
        liked = ("red", "blue")[person % 2]
        lines += [f"p{person},{name},{1 if liked in name else -1}" for name in names[person % 3 :: 3]]
    (tmp_path / "votes.csv").write_text("\n".join(lines) + "\n")
    extra = ["--image_column", "image", "--vote_column", "vote", "--n_prototypes", "2", "--disable_tqdm", "true"]
    extra += ["--use_cpu", "true", "--guard", "off"]
    summary = load_recipe("pal_reward").main([*flags(world, tmp_path / "votes.csv", tmp_path / "out"), *extra])
    assert summary["pal/accuracy"] > summary["pooled/accuracy"] + 0.2
