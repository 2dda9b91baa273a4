"""scripts/bench_speed.py: the other side is the tree that is named, wherever the script is started."""

from pathlib import Path

import pytest

from tests.worlds.scripts import ROOT, load_file


def test_a_small_run_is_that_of_the_tree_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -c` looks for packages where it is started, before it follows PYTHONPATH."""
    (tmp_path / "palign" / "cli").mkdir(parents=True)
    (tmp_path / "palign" / "__init__.py").touch()
    (tmp_path / "palign" / "cli" / "__init__.py").touch()
    (tmp_path / "palign" / "cli" / "command.py").write_text("def main():\n    return 3\n")
    monkeypatch.chdir(ROOT)
    bench = load_file(ROOT / "scripts" / "bench_speed.py", "bench_speed")
    with pytest.raises(SystemExit, match="exit status 3"):
        bench.measured("reward", tmp_path)
