"""The trained network of a run, or of the package, as a function from crops of faces to predictions."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax import models, sharding, weights
from rdfer_jax.config import Config
from rdfer_jax.faces.cut import DISTRIBUTOR
from rdfer_jax.state import TrainState, evaluated
from rdfer_jax.steps import make_predict_step
from rdfer_jax.training import run_dir
from rdfer_jax.training.setup import ModelSetup
from rdfer_jax.types import Batch, Prediction

#: Frames of a window that a network of still pictures reads.
STILL_FRAMES = 16
#: What the network says of a window, by the names of Prediction; some networks lack the last three.
OUTPUTS = ("logits", "clip_logits", "agreement", "instants", "instant_logits", "key_instants")
#: Those of them that are logits of the classes.
LOGITS = ("logits", "clip_logits", "instant_logits")


#: Reads windows, uint8 [B, F, S, S, 3], with their mask, bool [B].
Read = Callable[[np.ndarray, np.ndarray], Prediction]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
      config: its settings, for predicting videos.
      classes: names of the N classes, by index.
      faces: how the faces of its training data were cut, see faces.cut; empty if that is not known.
      model: run or name, checkpoint and step, for the records of predictions.
      digest: hash of its variables.
      runtime: what runs it, jax or onnx.
      temperature: divides the logits, so that the highest probability is how often the prediction is right;
        None if that was not measured.
      shift: float [N], added to all logits; None for none.
    """

    config: Config
    classes: tuple[str, ...]
    faces: Mapping[str, Any]
    model: dict[str, str | int]
    digest: str
    _state: TrainState | None
    _read: Read
    runtime: str = "jax"
    temperature: float | None = None
    shift: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a window: frames, height, width and colors."""
        data = self.config.data
        return data.frames, data.image_size, data.image_size, 3

    def function(self) -> Callable[[jax.Array], dict[str, jax.Array]]:
        """Returns the network as a pure function of the frames, for export.

        It maps uint8 [B, F, S, S, 3] to those of OUTPUTS that the network has, and computes in float32,
        wherever it runs. Its weights are not folded into each other, as those of `predict` are not, so
        that on a CPU it gives the same bits.

        Raises:
          ValueError: the network was read from an export.
        """
        if self._state is None:
            raise ValueError(f"{self.model['run']}: an exported network cannot be exported again")
        config = dataclasses.replace(
            self.config,
            model=dataclasses.replace(self.config.model, dtype="float32"),
            agreement=dataclasses.replace(self.config.agreement, score="odds"),  # of no label
            optim=dataclasses.replace(self.config.optim, evaluate="last"),
        )
        step = make_predict_step(config, models.create(config, len(self.classes), "cpu"))
        found = jax.device_get(evaluated(self._state, self.config.optim))
        bare = TrainState(
            seed=jnp.uint32(0), step=jnp.int32(0), params=found["params"],
            batch_stats=found["batch_stats"], opt_state=(), teacher=None, memory=None,
        )  # fmt: skip

        def outputs(frames: jax.Array) -> dict[str, jax.Array]:
            videos = frames.shape[0]
            zeros = jnp.zeros(videos, jnp.int32)
            state = jax.lax.optimization_barrier(bare)
            found = step(state, Batch(frames, zeros, zeros, jnp.ones(videos, bool)))
            found = _shifted(found, self.shift)
            named = {name: getattr(found, name) for name in OUTPUTS}
            return {name: value for name, value in named.items() if value is not None}

        return outputs

    def predict(self, frames: np.ndarray, mask: np.ndarray, *, mirror: bool = False) -> Prediction:
        """Predicts windows; compiled for each B.

        Args:
          frames: uint8 [B, F, S, S, 3], F = config.data.frames and S = config.data.image_size.
          mask: bool [B].
          mirror: whether to read the mirror images, too: logits and agreement are the means of both, key
            instants those of the frames themselves.
        """
        found = _shifted(self._read(frames, mask), self.shift)
        if not mirror:
            return found
        other = self.predict(np.ascontiguousarray(frames[..., ::-1, :]), mask)
        means = {
            name: (getattr(found, name) + getattr(other, name)) / 2
            for name in (*LOGITS, "agreement")
            if getattr(found, name) is not None
        }
        return dataclasses.replace(found, **means)

    def shifted(self, shift_N: np.ndarray) -> "Trained":
        """Returns the network with float64 [N] added to its logits of the classes."""
        digest = hashlib.blake2b(self.digest.encode() + shift_N.tobytes()).hexdigest()
        return dataclasses.replace(self, shift=shift_N.astype(np.float32), digest=digest)


def _shifted(found: Prediction, shift_N: np.ndarray | None) -> Prediction:
    if shift_N is None:
        return found
    values = {name: getattr(found, name) for name in LOGITS}
    return dataclasses.replace(
        found, **{name: value + shift_N for name, value in values.items() if value is not None}
    )


def from_run(run: epath.PathLike, checkpoint: str) -> Trained:
    """Restores the network of a training run.

    Args:
      run: folder of the run.
      checkpoint: last, best, or a step.

    Raises:
      FileNotFoundError: not a run, or no such checkpoint.
      ValueError: the run's files are damaged.
    """
    info = run_dir.read(run)
    setup = _setup(info.config, len(info.classes), info.num_train)
    step, state = setup.restore(run, checkpoint)
    model: dict[str, str | int] = {
        "run": epath.Path(run).name, "checkpoint": checkpoint, "step": step,
    }  # fmt: skip
    network = of_state(info.config, info.classes, info.faces, model, state)
    return dataclasses.replace(network, temperature=run_dir.temperature(run, step))


def from_package(name: str, folder: pathlib.Path = weights.FOLDER) -> Trained:
    """Loads a network that comes with the package, one of `weights.NAMES`."""
    packaged = weights.load(name, folder)
    params, batch_stats = (
        jax.device_put(packaged.variables[part]) for part in ("params", "batch_stats")
    )
    state = TrainState(
        seed=jnp.uint32(0), step=jnp.int32(packaged.step), params=params, batch_stats=batch_stats,
        opt_state=(), teacher=None, memory=None,
    )  # fmt: skip
    model: dict[str, str | int] = {"run": name, "checkpoint": "packaged", "step": packaged.step}
    return of_state(packaged.config, packaged.classes, {"by": DISTRIBUTOR}, model, state)


def for_video(config: Config) -> Config:
    """Returns the settings with which a network predicts a video.

    A network of still pictures reads STILL_FRAMES frames of a window, each as a clip by itself, so that the
    agreement is that of the frames.
    """
    if config.data.frames > 1:
        return config
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, frames=STILL_FRAMES),
        clips=config_lib.Clips(kind="windows", number=STILL_FRAMES, frames=1),
        augment=dataclasses.replace(config.augment, per="video", eval_views="plain"),
    )


def _setup(config: Config, num_classes: int, num_train: int) -> ModelSetup:
    return ModelSetup(config, sharding.make_mesh(jax.local_devices()[:1]), num_classes, num_train)


def of_state(
    config: Config,
    classes: tuple[str, ...],
    faces: Mapping[str, Any],
    model: dict[str, str | int],
    state: TrainState,
) -> Trained:
    """Returns a network with the variables of a state; the other arguments are attributes of Trained."""
    config = for_video(config)
    step = jax.jit(make_predict_step(config, _setup(config, len(classes), 1).network))
    digest = _digest((state.params, state.batch_stats))

    def read(frames: np.ndarray, mask: np.ndarray) -> Prediction:
        zeros = np.zeros(len(frames), np.int32)
        return jax.device_get(step(state, Batch(*jax.device_put((frames, zeros, zeros, mask)))))

    return Trained(config, classes, faces, model, digest, state, read)


def _digest(variables: Any) -> str:
    """Returns a hash of the names and the values of variables."""
    result = hashlib.blake2b()
    for path, array in jax.tree.leaves_with_path(jax.device_get(variables)):
        result.update(jax.tree_util.keystr(path).encode())
        result.update(np.asarray(array).tobytes())
    return result.hexdigest()
