"""The command line: flags and dispatch only, the work is in modules that can be tested.

    python -m rdfer_jax.main --config=configs/synthetic.py --workdir=runs/mine
    python -m rdfer_jax.main --config=configs/synthetic.py --workdir=runs/mine --mode=eval
    python -m rdfer_jax.main --config=configs/dfew.py --mode=check --config.build.source_dir=/data/DFEW
    python -m rdfer_jax.main --config=configs/dfew.py --mode=build --config.build.source_dir=/data/DFEW
    python -m rdfer_jax.main --workdir=runs/mine --mode=report
    python -m rdfer_jax.main --workdir=runs/mine --mode=predict --input=holiday.mp4
    python -m rdfer_jax.main --config=configs/dfew.py --workdir=runs/all --mode=crossval
    python -m rdfer_jax.main --workdir=runs/all --mode=audit

Any setting can be given as --config.section.name=value. The console script rdfer does the same, and takes
the mode as its first word: rdfer predict --workdir=runs/mine --input=holiday.mp4
"""

import json
import logging
import os
import sys

import jax
from absl import app, flags
from absl import logging as absl_logging
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import config_flags

from rdfer_jax import config as config_lib
from rdfer_jax import sharding
from rdfer_jax.build import build, check
from rdfer_jax.config import Config
from rdfer_jax.labels import audit
from rdfer_jax.predict import predictor
from rdfer_jax.report import report
from rdfer_jax.training import crossval, evaluate, malloc, train
from rdfer_jax.training.loop import NonFiniteLossError
from rdfer_jax.training.preemption import PreemptedError, is_peer_failure

log = logging.getLogger("rdfer_jax")

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File with the settings, such as configs/synthetic.py.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; may be gs://.")
READ_ONLY = ("predict", "audit", "report")
MODES = ("train", "crossval", "eval", "check", "build", *READ_ONLY)
MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do; also as the first word.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")
INPUT = flags.DEFINE_string("input", None, "For predict: a video, a folder, or a list of them.")
FOLDS = flags.DEFINE_integer(
    "folds", 5, "For crossval, of a data set that has no folds of its own."
)
OUTPUT = flags.DEFINE_string("output", None, "Where to write; a place in the workdir, if none.")
FORCE = flags.DEFINE_bool("force", False, "For audit: also of clips that were trained on.")
MULTIHOST = flags.DEFINE_bool(
    "multihost",
    False,
    "Run as one of several processes, found through the cluster (TPU pod, Slurm).",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, where there is no cluster to ask."
)
PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes, with --coordinator.")
PROCESS = flags.DEFINE_integer("process", None, "Number of this process, with --coordinator.")

#: Errors that the user can mend: shown without a stack trace.
USER_ERRORS = (ValueError, OSError, NonFiniteLossError)
#: After so many seconds without a sign of life a process counts as lost.
HEARTBEAT = 30


def main(argv: list[str]) -> None:
    """Runs the mode."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; modes are {', '.join(MODES)}")
    absl_logging.set_verbosity(absl_logging.WARNING)  # libraries speak up for warnings only
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    log.setLevel(logging.INFO)
    ended: int | str | None = None
    try:
        if MODE.value in READ_ONLY:
            read_run(MODE.value)
        elif CONFIG.value is None:
            raise ValueError(f"--mode={MODE.value} needs --config, such as configs/synthetic.py")
        else:
            run(config_lib.resolve(CONFIG.value))
    except PreemptedError as stop:
        print(stop)
        ended = stop.exit_status
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        ended = 130
    except Exception as error:
        log.debug("", exc_info=True)
        if is_peer_failure(error):
            print(
                "error: another process of this job ended or cannot be reached: "
                f"{str(error).splitlines()[0]}\nStart all of them again: training goes on from its last "
                "checkpoint",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)  # the usual way out would wait for that process
        if "Worker process was terminated" in str(error):  # Grain has no class for it
            ended = (
                "error: a process that reads data was ended from outside, perhaps because memory ran "
                "out: lower config.data.num_workers. Training goes on from its last checkpoint"
            )
        elif isinstance(error, USER_ERRORS):
            ended = f"error: {error}"
        else:
            raise
    # Not above, where the exception would keep alive, until Python's very end, what still reads data.
    if ended is not None:
        sys.exit(ended)


def read_run(mode: str) -> None:
    """Runs a mode that needs no --config, as a run's folder knows its own."""
    if not WORKDIR.value:
        raise ValueError(f"--mode={mode} needs --workdir, the folder of a run")
    if mode == "predict":
        if not INPUT.value:
            raise ValueError("--mode=predict needs --input, a video, a folder or a list of them")
        # The network is that of the run; a config only says how to read videos.
        settings = config_lib.resolve(CONFIG.value).predict if CONFIG.value else None
        predictor.predict(WORKDIR.value, INPUT.value, OUTPUT.value, CHECKPOINT.value, settings)
    elif mode == "audit":
        found = audit.run(WORKDIR.value, OUTPUT.value, FORCE.value)
        print(audit.describe(found))
        print(f"audit in {epath.Path(OUTPUT.value or epath.Path(WORKDIR.value) / 'audit')}")
    else:
        print(f"report in {report.write(WORKDIR.value, OUTPUT.value)}")


def run(config: Config) -> None:
    """Runs --mode with a validated configuration."""
    if MODE.value == "build":
        build(config)
        return
    if MODE.value == "check":
        checked = check(config)
        print(checked.text())
        if OUTPUT.value:
            epath.Path(OUTPUT.value).write_text(json.dumps(checked.json(), indent=2) + "\n")
        sys.exit(not checked.is_well)
    if not WORKDIR.value:
        raise ValueError(f"--mode={MODE.value} needs --workdir, the folder of the run")
    malloc.keep_freed()
    sharding.split_cpu(config.cpu_devices)
    if config.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.compile_cache)
    if COORDINATOR.value:
        jax.distributed.initialize(
            COORDINATOR.value, PROCESSES.value, PROCESS.value, heartbeat_timeout_seconds=HEARTBEAT
        )
    elif MULTIHOST.value:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
    if config.data.name == "synthetic_faces":
        # Built when missing, and refused when it was built with other options.
        if jax.process_index() == 0:
            build(config)
        multihost_utils.sync_global_devices("the data set is built")
    if MODE.value == "crossval":
        found = crossval.crossval(config, WORKDIR.value, FOLDS.value)
        if jax.process_index() == 0:
            print(crossval.table(found))
        return
    if MODE.value == "train":
        results = train.train(config, WORKDIR.value)
    else:
        results = evaluate.evaluate(config, WORKDIR.value, CHECKPOINT.value)
    if jax.process_index() == 0:
        print(evaluate.describe(results))
        if "best_on_validation" in results:
            print("\nbest on validation: " + evaluate.describe(results["best_on_validation"]))
        print(f"results in {epath.Path(WORKDIR.value) / 'results.json'}")


def cli() -> None:
    """Runs the console script; its first word may be the mode."""
    words = sys.argv[1:]
    if words and words[0] in MODES:
        words[0] = f"--mode={words[0]}"
    app.run(main, [sys.argv[0], *words])


if __name__ == "__main__":
    cli()
