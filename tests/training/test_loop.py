"""The training loop: when it evaluates, saves and stops, and what it logs."""

import dataclasses
import gzip
import itertools
import json
import signal
import time

import numpy as np
import pytest
import tiny
from etils import epath

from rdfer_jax.metrics import TrainMetrics
from rdfer_jax.training import loop as loop_lib
from rdfer_jax.training.loop import Loop, MetricLogger, NonFiniteLossError
from rdfer_jax.training.preemption import PreemptedError
from rdfer_jax.training.setup import StepCounts
from rdfer_jax.training.writers import MetricWriter, Progress, read_metrics


@dataclasses.dataclass
class FakeState:
    step: int


class FakeCheckpoints:
    def __init__(self, workdir):
        self.saved, self.directory = {}, epath.Path(workdir) / "checkpoints"

    def save(self, step, state, metrics):
        assert state.step == step
        self.saved[step] = metrics

    def latest(self):
        return max(self.saved, default=None)


class FakeIterator:
    taken = 0

    def __next__(self):
        self.taken += 1
        known = {"clip_id": np.array([f"clip{self.taken}", "b"]), "label": np.array([1, 0])}
        return self.taken, known


def step_metrics(loss):
    ones = np.ones(4, np.float32)
    return TrainMetrics.of_step(
        loss=np.full(4, loss, np.float32), accuracy=ones, agreement=ones, clean=ones,
        noisy=0 * ones, hard=0 * ones, grad_norm=np.float32(1),
    )  # fmt: skip


class FakePredictions(dict):
    split, classes = "x", ("a", "b")


def run(
    tmp_path,
    losses,
    eval_split="validation",
    record=None,
    during=None,
    keep=None,
    profile=None,
    **durations,
):
    """Runs a loop whose steps have these losses; returns its checkpoints and its rows.

    `during` holds what happens in each step; `keep` is a list that gets the checkpoints.
    """
    train = {"duration": f"{len(losses)} steps", "log_every": "2 steps"} | durations
    counts = StepCounts(tiny.config(train=train), 8)

    def step_fn(state, batch):
        assert batch == state.step + 1
        if during:
            during[state.step]()
        return FakeState(state.step + 1), step_metrics(losses[state.step])

    label = np.array([0, 1])
    found = {"label": label, "logits": np.eye(2, dtype=np.float32), "agreement": np.ones(2)}
    checkpoints = FakeCheckpoints(tmp_path)
    if keep is not None:
        keep.append(checkpoints)
    with (
        MetricWriter(tmp_path, tensorboard=False) as writer,
        Progress(counts.total, enabled=False) as progress,
    ):
        loop = Loop(
            counts=counts,
            step_fn=step_fn,
            checkpoints=checkpoints,
            evaluate=lambda state: FakePredictions(found),
            eval_split=eval_split,
            record=record,
            profile=profile,
            logger=MetricLogger(writer, progress, lambda step: 0.1 * step, counts, 8),
        )
        try:
            loop.run(FakeState(0), FakeIterator())
        finally:
            rows = read_metrics(tmp_path)
    return checkpoints, rows


def test_evaluates_saves_and_logs_on_schedule(tmp_path):
    due = {"eval_every": "3 steps", "save_every": "2 steps"}
    checkpoints, rows = run(tmp_path, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], **due)
    scores = {"validation_war": 1.0, "validation_uar": 1.0}
    assert checkpoints.saved == {2: None, 3: scores, 4: None, 6: scores, 7: scores}
    told = {row["step"]: row["loss"] for row in rows if "loss" in row}
    # Means over the two steps before; the last one over what is left.
    assert told == {2: 1.5, 4: 3.5, 6: 5.5, 7: 7.0}
    assert [row["step"] for row in rows if "validation_war" in row] == [3, 6, 7]
    assert rows[0]["learning_rate"] == pytest.approx(0.1)


def test_a_test_score_is_not_saved_with_a_checkpoint(tmp_path):
    due = {"eval_every": "1 steps", "save_every": "2 steps"}
    checkpoints, rows = run(tmp_path, [1.0, 1.0, 1.0, 1.0], eval_split="test", **due)
    assert checkpoints.saved == {2: None, 4: None}
    assert [row["test_war"] for row in rows] == [1.0] * 4


def test_records_predictions_after_whole_epochs_if_enabled(tmp_path):
    recorded = []

    def record(epoch, state):
        recorded.append((epoch, state.step))

    due = {"eval_every": "9 steps", "save_every": "9 steps"}
    run(tmp_path / "off", [1.0] * 6, record=record, **due)
    assert recorded == []
    epoch = StepCounts(tiny.config(), 8).epoch
    run(tmp_path / "on", [1.0] * 6, record=record, record_every="2 epochs", **due)
    assert recorded == [(2 * n, 2 * n * epoch) for n in range(1, 6 // (2 * epoch) + 1)] != []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_loss_stops_the_run_before_it_is_saved(tmp_path, bad):
    due = {"eval_every": "9 steps", "save_every": "2 steps"}
    losses = [1.0, 1.0, 1.0, bad, 1.0, 1.0]
    with pytest.raises(
        NonFiniteLossError, match=r"step 4 is (nan|inf).*last good checkpoint in .* is 2"
    ):
        run(tmp_path, losses, **due)
    dump = json.loads((tmp_path / "not_finite_step4.json").read_text())
    assert dump["step"] == 4 and dump["statistics"]["loss"] == str(bad)
    assert dump["statistics"]["grad_norm"] == 1
    assert dump["clip_id"] == ["clip4", "b"] and dump["label"] == [1, 0]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_the_state_and_stops_the_run(tmp_path, number, status):
    due = {"eval_every": "9 steps", "save_every": "9 steps"}
    before = signal.getsignal(number)
    asks = [lambda: None, lambda: None, lambda: signal.raise_signal(number)] + 5 * [lambda: None]
    with pytest.raises(
        PreemptedError, match=rf"{number.name} after step 3 of 8.*same command to resume"
    ) as stop:
        run(tmp_path, [1.0] * 8, during=asks, **due)
    assert stop.value.exit_status == status
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_the_run_at_once(tmp_path):
    saved = []

    def two_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    steps = [lambda: None, two_signals, lambda: None]
    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path,
            [1.0] * 3,
            during=steps,
            keep=saved,
            save_every="9 steps",
            eval_every="9 steps",
        )
    assert saved[0].saved == {}


def test_a_signal_saves_the_current_step_even_if_no_save_is_due(tmp_path):
    found = []
    asks = 2 * [lambda: None] + [lambda: signal.raise_signal(signal.SIGTERM)] + 2 * [lambda: None]
    with pytest.raises(PreemptedError):
        run(
            tmp_path, [1.0] * 5, during=asks, keep=found, save_every="2 steps", eval_every="9 steps"
        )
    assert found[0].saved == {2: None, 3: None}  # 3 was not due


def test_a_signal_in_the_last_step_lets_the_run_finish(tmp_path):
    asks = [lambda: None, lambda: signal.raise_signal(signal.SIGTERM)]
    checkpoints, _ = run(tmp_path, [1.0] * 2, during=asks)
    assert max(checkpoints.saved) == 2


def test_a_non_finite_loss_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(NonFiniteLossError, match="There is no checkpoint yet in"):
        run(tmp_path, [np.nan, 1.0, 1.0], **{"save_every": "9 steps"})


def test_input_wait_is_the_share_of_time_waiting_for_data(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(loop_lib.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(FakeIterator, "__next__", clock.after(3.0, FakeIterator.__next__))
    step = clock.after(1.0, loop_lib.jax.profiler.StepTraceAnnotation)
    monkeypatch.setattr(loop_lib.jax.profiler, "StepTraceAnnotation", step)
    _, rows = run(tmp_path, [1.0] * 4, eval_every="9 steps", save_every="9 steps")
    shares = [row["input_wait"] for row in rows if "input_wait" in row]
    # Metrics are read one step late, after the next batch: of the first window's 3 x (3 + 1) seconds
    # it waited 9. The last window is flushed, so that 3 + 1 seconds are left for it.
    assert shares == pytest.approx([0.75, 0.75])


class Clock:
    """Time that goes on only when something is done."""

    now = 0.0

    def after(self, seconds, do):
        def late(*args, **kwargs):
            self.now += seconds
            return do(*args, **kwargs)

        return late


def test_a_clock_jump_changes_only_the_written_times(tmp_path, monkeypatch):
    due = {"eval_every": "3 steps", "save_every": "2 steps"}
    losses = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    calm, expected = run(tmp_path / "calm", losses, **due)
    jumps = itertools.cycle([1e9, -1e9, 4e9, 0.0])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    hurt, rows = run(tmp_path / "hurt", losses, **due)
    assert hurt.saved == calm.saved
    measured = ("time", "steps_per_second", "videos_per_second", "input_wait")
    told = [
        [{k: v for k, v in row.items() if k not in measured} for row in r] for r in (rows, expected)
    ]
    assert told[0] == told[1] and len({row["time"] for row in rows}) > 1
    rates = [row["steps_per_second"] for row in rows if "steps_per_second" in row]
    assert rates and all(0 < rate < 1e7 for rate in rates)


def test_config_profile_traces_five_steps(tmp_path):
    run(tmp_path, [1.0] * 20, profile=tmp_path / "profile")
    (trace,) = (tmp_path / "profile").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    traced = [event["args"]["step_num"] for event in events if event.get("name") == "train"]
    assert sorted(map(int, traced)) == list(loop_lib.PROFILE_STEPS)


def test_a_run_that_ends_early_ends_its_trace(tmp_path):
    run(tmp_path, [1.0] * 12, profile=tmp_path / "profile")
    assert list((tmp_path / "profile").rglob("*.trace.json.gz"))
    run(tmp_path, [1.0] * 12, profile=tmp_path / "again")  # JAX allows one trace at a time
