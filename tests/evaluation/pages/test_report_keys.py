"""What a written report.json holds is what its typed records name, no key more and none less."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from palign.data.image_folder import ImageFolder
from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.pages.image_likes import image_likes
from palign.evaluation.pages.report_keys import ReportRecord
from palign.evaluation.report import write_report
from tests.worlds.drawn_images import draw_images
from tests.worlds.reports import figure_data, judgements, small_report
from tests.worlds.typed_records import keys_named, keys_seen


def test_keys_of_written_reports_are_those_named(tmp_path: Path) -> None:
    """A report with every figure, and one that opens with regrets: together they have every key."""
    ends = [{"value": 0.1, "low": 0.0, "high": 0.2}, {"value": 0.3, "low": 0.2, "high": 0.4}]
    regrets = {
        "types": ["warm", "cold"], "policies": ["distill", "pooled"], "chosen": "distill", "level": 0.95,
        "values": [[0.1, 0.3], [0.0, 0.2]], "type_weights": [0.5, 0.5], "policy_weights": None, "worst": ends,
        "worst_type": [0, 0], "mean": [0.05, 0.25], "kl": [0.1, 0.2], "judges": {"votes": ends},
    }  # fmt: skip
    tables = [judgements(name, (0.9, 0.8, 0.7), 12, 3) for name in ("pooled", "distill")]
    fair = write_report(tables, output_dir=tmp_path / "fair", figures=FigureData(regrets=regrets), n_resamples=20)
    draw_images(tmp_path / "pictures", n_each=2)
    images = ImageFolder(tmp_path / "pictures")
    scores = np.arange(16.0).reshape(8, 2) ** 2
    shown = image_likes(images, ["warm", "cold"], images.names, scores, np.zeros(8))
    likes = [{"type": "warm", "most": ["a"], "least": ["b"], "words": ["c"], "other_words": ["d"]}]
    figures = replace(figure_data(n_people=30), likes=likes, image_likes=shown)
    reports = [small_report(tmp_path / "small", figures=figures), fair]
    found = [json.loads(report.json_path.read_text(encoding="utf-8")) for report in reports]
    assert set().union(*(keys_seen(data, ReportRecord) for data in found)) == keys_named(ReportRecord)
