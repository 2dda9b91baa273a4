"""The same rows from every kind of file, and faults of files named with file and line."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from palign.data.loading import load_embeddings, load_preferences
from palign.data.preferences import Preferences
from palign.data.sources import save_preferences

ROWS = [
    {"annotator_id": "007", "prompt": "p", "chosen": "x, with\na line", "rejected": "ü😀", "country": "NL"},
    {"annotator_id": "7", "prompt": "p", "chosen": "y", "rejected": 'quoted "z"', "country": "BE"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write(folder, name: str):
    """ROWS in the form that the name's suffix says."""
    path = folder / name
    if ".parquet" in name:
        pd.DataFrame(ROWS).to_parquet(path)
        return path
    texts = {".jsonl": LINES, ".json": json.dumps(ROWS), ".csv": pd.DataFrame(ROWS).to_csv(index=False)}
    raw = next(text for suffix, text in texts.items() if suffix in name).encode()
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.json.gz", "a.csv.gz", "A.JSONL", "d.o.t.csv"]
)
def test_every_kind_of_file(tmp_path, name: str) -> None:
    assert load_preferences(write(tmp_path, name.lower()).rename(tmp_path / name)).to_rows() == ROWS


def test_json_with_an_object_on_every_line(tmp_path) -> None:
    (tmp_path / "a.json").write_text("\ufeff\n" + LINES)
    assert load_preferences(tmp_path / "a.json").to_rows() == ROWS


def test_lists_and_numbers_in_csv_cells(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        'annotator_id,completions,ratings,n_ranked\na,"[""x"", ""y""]","[1, 2.5]",\nb,"[""y"", ""z""]",,1\n'
    )
    assert load_preferences(path).ranks.tolist() == [[0, 1], [0, 1]]
    path.write_text('annotator_id,completions\na,"[""x"", ""y""]"\nb,"x, y"\n')
    with pytest.raises(
        TypeError, match=r"a.csv, row 1 \(counting from 0\), column 'completions': a list in JSON form"
    ):
        load_preferences(path)
    path.write_text("annotator_id,chosen_index,rejected_index\na,0,1\nb,1,two\n")
    with pytest.raises(
        TypeError, match=r"row 1 \(counting from 0\), column 'rejected_index': a number .* found 'two'"
    ):
        load_preferences(path, n_embeddings=2)


def test_empty_csv_cells_are_nothing(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("annotator_id,chosen,rejected,country\na,NA,null,\n,x,y,NL\n")
    with pytest.raises(TypeError, match="a.csv, row 1 .*'annotator_id': the annotator's id is missing"):
        load_preferences(path)
    path.write_text("annotator_id,chosen,rejected,country\na,NA,null,\n")
    assert load_preferences(path).to_rows() == [
        {"annotator_id": "a", "prompt": "", "chosen": "NA", "rejected": "null"}
    ]


def test_folders_hold_splits(tmp_path) -> None:
    write(tmp_path, "train.jsonl")
    assert len(load_preferences(tmp_path)) == len(load_preferences(tmp_path, split="train")) == 2
    (tmp_path / "test.jsonl").write_text(LINES.split("\n")[0])
    (tmp_path / "truth.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("not data")
    assert len(load_preferences(tmp_path)) == 2 and len(load_preferences(str(tmp_path), split="test")) == 1
    with pytest.raises(
        ValueError, match="no split 'validation'; its data files are test.jsonl, train.jsonl, truth.json"
    ):
        load_preferences(tmp_path, split="validation")
    write(tmp_path, "test.csv")
    with pytest.raises(ValueError, match="holds split 'test' in several files"):
        load_preferences(tmp_path, split="test")


def test_a_folder_with_one_file_of_any_name_or_a_data_folder(tmp_path) -> None:
    (tmp_path / "one" / "data").mkdir(parents=True)
    write(tmp_path / "one" / "data", "train-00000-of-00001.parquet")
    assert len(load_preferences(tmp_path / "one")) == 2
    (tmp_path / "two").mkdir()
    with pytest.raises(ValueError, match="holds no data file"):
        load_preferences(tmp_path / "two")
    write(tmp_path / "two", "mine.csv")
    assert len(load_preferences(tmp_path / "two")) == 2
    with pytest.raises(ValueError, match="no split 'train'; its data files are mine.csv"):
        load_preferences(tmp_path / "two", split="train")


def test_numbered_parts_are_one_split(tmp_path) -> None:
    (tmp_path / "train-00000-of-00002.jsonl").write_text(LINES)
    with pytest.raises(ValueError, match="train-00000-of-00002.jsonl; these are not all the parts"):
        load_preferences(tmp_path)
    (tmp_path / "train-00001-of-00002.jsonl").write_text(LINES.replace("007", "8"))
    assert load_preferences(tmp_path).annotator_ids.tolist() == ["007", "7", "8", "7"]


def test_a_folder_saved_by_datasets(tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_list(ROWS)
    part.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": part, "test": part.select([1])}).save_to_disk(tmp_path / "two")
    assert load_preferences(tmp_path / "one").to_rows() == ROWS
    assert load_preferences(tmp_path / "two", split="test").to_rows() == ROWS[1:]
    with pytest.raises(ValueError, match="no split 'dev'; it has train, test"):
        load_preferences(tmp_path / "two", split="dev")


def test_saved_preferences_are_the_same(tmp_path) -> None:
    rows = [*ROWS, {"annotator_id": "l", "prompt": "q", "completions": ["x", "y", "z"], "n_ranked": 1}]
    save_preferences(Preferences.from_rows(rows), tmp_path / "deep" / "train.jsonl")
    assert load_preferences(tmp_path / "deep").to_rows() == rows


FILE_FAULTS = {
    "unreadable line": (
        "a.jsonl", LINES.splitlines()[0] + "\n\n{'annotator_id': 1}\n",
        r"a.jsonl, line 3 \(counting from 1\): not JSON \(Expecting property name.*\): \"\{'annotator_id': 1\}\"",
    ),
    "cut off": ("a.jsonl", LINES[:-20], r"a.jsonl, line 2 \(counting from 1\): not JSON"),
    "a list on a line": ("a.jsonl", '["a"]\n', r"a.jsonl, line 1 \(counting from 1\): \['a'\] is no object.*one row"),
    "empty": ("a.jsonl", "", r"a.jsonl is empty \(0 bytes\)"),
    "only blanks": ("a.jsonl", "\n \n", "a.jsonl is empty"),
    "empty csv": ("a.csv", "annotator_id,chosen,rejected\n", "a.csv has a header and no rows"),
    "ragged csv": ("a.csv", 'annotator_id,chosen\na,b\na,b,c,d\n', r"a.csv, line 3 .*: 4 cells, header has 2"),
    "empty list": ("a.json", "[]", "a.json: there are no rows"),
    "one object": ("a.json", '{"mode": "pure", "seed": 0}', "a.json holds one object with the keys mode, seed"),
    "broken json": ("a.json", '[{"a": 1},\n{"a"}]', "a.json, line 2: not JSON"),
    "json number": ("a.json", "3", "a.json holds 3; a list"),
    "a key twice": (
        "a.jsonl", LINES + '{"annotator_id": "a", "chosen": "x", "rejected": "y", "chosen": "z"}\n',
        r"a.jsonl, line 3 \(counting from 1\): the key 'chosen' is there twice",
    ),
    "a key twice in a message": (
        "a.jsonl", '{"chosen": [{"role": "user", "role": "user"}]}', "a.jsonl, line 1 .* the key 'role' is there twice"
    ),
    "a key twice in a list": ("a.json", '[{"a": 1, "a": 2}]', "a.json: an object has the key 'a' twice"),
    "a key twice on a line of a.json": ("a.json", '{"b": 1}\n{"a": 1, "a": 2}', "a.json, line 2 .* the key 'a' is"),
    "half an emoji": (
        "a.jsonl", LINES + '{"annotator_id": "a", "chosen": "x\\ud83d", "rejected": "y"}',
        r"a.jsonl, row 2 \(counting from 0\), column 'chosen': half a surrogate pair",
    ),
    "no parquet": ("a.parquet", LINES, "a.parquet is no readable parquet file .* copy or write it again"),
    "no gzip": ("a.jsonl.gz", LINES, "a.jsonl.gz is no readable gzip file .* take .gz off its name"),
    "unknown suffix": ("a.docx", "x", "a.docx: cannot read .docx"),
    "no workbook": ("a.xlsx", "x", "a.xlsx is no readable workbook"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_faults_of_files(tmp_path, fault: str) -> None:
    name, content, words = FILE_FAULTS[fault]
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        load_preferences(tmp_path / name)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.csv.gz"])
@pytest.mark.parametrize("damage", ["cut", "blanked"])
def test_damaged_files_are_named(tmp_path, name: str, damage: str) -> None:
    path = write(tmp_path, name)
    raw = bytearray(path.read_bytes())
    path.write_bytes(raw[: len(raw) // 2] if damage == "cut" else raw[:-40] + bytes(40))
    with pytest.raises(ValueError, match=rf"^{name} is no readable (parquet|gzip) file \(.*again"):
        load_preferences(path)


def test_bytes_that_are_no_utf8_name_their_line(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES.encode() + b'{"annotator_id": "\xff"}')
    with pytest.raises(ValueError, match="a.jsonl, line 3: not UTF-8"):
        load_preferences(tmp_path / "a.jsonl")


def test_row_faults_name_the_file(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text(LINES + json.dumps({**ROWS[0], "rejected": None}))
    with pytest.raises(ValueError, match=r"^a.jsonl, row 2 \(counting from 0\), column 'rejected'"):
        load_preferences(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="^a.jsonl: there is no column 'worker'"):
        load_preferences(tmp_path / "a.jsonl", annotator_column="worker")
    with pytest.raises(TypeError, match="'annotator' is not an argument"):
        load_preferences(tmp_path / "nowhere.jsonl", annotator="x")


def test_what_is_nowhere() -> None:
    for name in ("nowhere.jsonl", "./no/such/folder", "/no/such"):
        with pytest.raises(FileNotFoundError, match=f"no file or folder '{name}' here.*on the hub"):
            load_preferences(name)
    with pytest.raises(
        FileNotFoundError, match="'nobody/nothing' is no file or folder here, and as a data set of the hub"
    ):
        load_preferences("nobody/nothing")


def test_vectors_come_memory_mapped(tmp_path) -> None:
    vectors = np.arange(12, dtype=np.float16).reshape(4, 3)
    np.save(tmp_path / "v.npy", vectors)
    loaded = load_embeddings(tmp_path / "v.npy")
    assert isinstance(loaded, np.memmap) and loaded.dtype == np.float16
    np.testing.assert_array_equal(loaded, vectors)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([[1.0], [np.nan], [np.inf]]), r"row 1 \(counting from 0\) has a NaN or infinite entry"),
        (np.zeros(3), r"shape \(3,\) of float64; vectors of shape \(n, width\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((2, 2), dtype=int), "of int64"),
        (np.array([["a"]], dtype=object), "not a readable .npy file"),
    ],
)
def test_vectors_that_are_none(tmp_path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "v.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=words):
        load_embeddings(tmp_path / "v.npy")


def test_a_vector_far_down_is_named(tmp_path) -> None:
    vectors = np.zeros((50_001, 400), dtype=np.float16)
    vectors[50_000, 399] = np.nan
    np.save(tmp_path / "v.npy", vectors)
    with pytest.raises(ValueError, match="row 50000"):
        load_embeddings(tmp_path / "v.npy")


def test_files_that_hold_no_vectors(tmp_path) -> None:
    (tmp_path / "v.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="not a readable .npy file"):
        load_embeddings(tmp_path / "v.npy")
    np.savez(tmp_path / "v.npz", a=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="holds an archive"):
        load_embeddings(tmp_path / "v.npz")
    with pytest.raises(FileNotFoundError, match="--embeddings takes a .npy file"):
        load_embeddings(tmp_path / "none.npy")
