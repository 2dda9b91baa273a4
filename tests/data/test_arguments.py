"""What a recipe's command line says is what is loaded."""

from dataclasses import fields

import numpy as np
import pytest

from palign.data.arguments import DataArguments

ROW = '{"who": %d, "q": "p", "chosen": "x", "rejected": "y", "country": "NL"}\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.jsonl").write_text(ROW % 1 + ROW % 2)
    (tmp_path / "test.jsonl").write_text(ROW % 3)
    return tmp_path


def test_flags_and_yaml_of_a_recipe(folder) -> None:
    trl = pytest.importorskip("trl")
    (folder / "c.yaml").write_text(f"dataset_name: {folder}\nannotator_column: who\nprompt_column: nothing\n")
    flags = ["--config", str(folder / "c.yaml"), "--prompt_column", "q", "--group_columns", "country"]
    (parsed,) = trl.TrlParser((DataArguments,)).parse_args_and_config(flags)
    train = parsed.train_rows()
    assert train.annotators().ids == ["1", "2"] and train.prompts == ["p"] and list(train.columns) == ["country"]
    assert parsed.eval_rows() is None


def test_rows_to_evaluate_on(folder) -> None:
    names = {"annotator_column": "who", "dataset_name": str(folder)}
    assert DataArguments(**names, eval_dataset_split="test").eval_rows().annotators().ids == ["3"]
    assert DataArguments(**names, eval_dataset_name=str(folder)).eval_rows().annotators().ids == ["3"]
    file = str(folder / "train.jsonl")
    assert len(DataArguments(**names, eval_dataset_name=file).eval_rows()) == 2
    with pytest.raises(ValueError, match="--eval_dataset_split names a split of nothing"):
        DataArguments(eval_dataset_split="test").eval_rows()


def test_vectors_and_limits(folder) -> None:
    np.save(folder / "v.npy", np.zeros((2, 3), dtype=np.float32))
    (folder / "train.jsonl").write_text('{"annotator_id": 1, "chosen_index": 0, "rejected_index": 2}')
    arguments = DataArguments(dataset_name=str(folder), embeddings=str(folder / "v.npy"))
    assert arguments.vectors().shape == (2, 3) and DataArguments().vectors() is None
    with pytest.raises(ValueError, match="2 is no row of the embeddings; allowed is 0 … 1"):
        arguments.train_rows(n_embeddings=len(arguments.vectors()))
    (folder / "train.jsonl").write_text('{"annotator_id": 1, "chosen": "xxx", "rejected": "y"}')
    with pytest.raises(ValueError, match="3 characters; the limit is 2"):
        DataArguments(dataset_name=str(folder), max_characters=2).train_rows()
    assert len(DataArguments(dataset_name=str(folder), max_characters=0).train_rows()) == 1


def test_a_group_that_is_no_column_and_rows_that_are_not_named(folder) -> None:
    with pytest.raises(ValueError, match="no column 'land'.*'country'"):
        DataArguments(dataset_name=str(folder), annotator_column="who", group_columns=["country", "land"]).train_rows()
    with pytest.raises(ValueError, match="give --dataset_name"):
        DataArguments().train_rows()


def test_every_field_says_what_it_is() -> None:
    assert [item.name for item in fields(DataArguments) if not item.metadata.get("help")] == []
