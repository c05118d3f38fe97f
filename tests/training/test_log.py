"""What a run reports."""

import json

import pytest

from iqa_jax.training import log


@pytest.mark.quick
def test_without_tensorboard_a_run_keeps_its_lines_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(log, "EventFileWriter", None)
    with log.Log(tmp_path, [], first_step=0) as lines:
        lines.scalar("training/loss", 0.5, 1)
        lines.evaluation(2, 1.0, {"loss": 0.5, "srcc": 0.9})
    assert "iqa-conformer[tensorboard]" in capsys.readouterr().out
    assert json.loads((tmp_path / log.METRICS).read_text())["srcc"] == 0.9
    assert not (tmp_path / "tensorboard").exists()
