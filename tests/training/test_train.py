"""Whole runs of training and evaluation: which splits are predicted, and how often."""

import pytest
import tiny

from rdfer_jax.training import evaluate, train
from rdfer_jax.training.checkpoint import DamagedCheckpointError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(0.0, ["test", "test", "train"]), (30.0, ["train", "train", "test", "train", "test"])],
)
def test_a_split_is_not_predicted_twice_by_the_same_state(tmp_path, monkeypatch, percent, expected):
    tiny.build(tmp_path)
    config = tiny.config(
        data={"dir": str(tmp_path), "validation_percent": percent},
        model={"name": "resnet_lstm"},
        train={"duration": "2 steps", "eval_every": "1 steps", "tensorboard": False},
    )
    predicted, predict = [], evaluate.Evaluator.__call__

    def counted(self, state, split):
        predicted.append(split.name)
        return predict(self, state, split)

    monkeypatch.setattr(evaluate.Evaluator, "__call__", counted)
    trained = train.train(config, tmp_path / "run")
    assert predicted == expected
    trained.pop("best_on_validation", None)
    # The restored checkpoint is predicted again, with the same results.
    assert evaluate.evaluate(config, tmp_path / "run") == trained
    assert predicted == [*expected, "test", "train"]
    # Evaluation does not use a damaged checkpoint.
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("2")
    (checkpoint / "state" / "_METADATA").write_text("{}")
    with pytest.raises(
        DamagedCheckpointError, match=r"checkpoint 2 in .* is damaged: state/_METADATA"
    ):
        evaluate.evaluate(config, tmp_path / "run")
