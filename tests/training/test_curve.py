"""The picture of a run."""

import json

import numpy as np
from PIL import Image

from maskmill.training.curve import main


def test_a_log_becomes_a_picture_and_a_sentence(tmp_path, capsys):
    lines = [
        {"step": s, "loss": 5 - s / 10, "positive_similarity": s / 40, "negative_similarity": 0.1} for s in range(20)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main([str(tmp_path)]) == 0
    assert "loss 4.950 over the first tenth of the log, 3.150 over the last" in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "curve.png")).std() > 5


def test_nothing_to_draw_is_said(tmp_path, capsys):
    assert main([str(tmp_path)]) == 4
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "log.jsonl").write_text("")
    assert main([str(tmp_path)]) == 4
    assert "has not reached its first line" in capsys.readouterr().err
    assert main([]) == 2
