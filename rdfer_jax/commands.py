"""The commands: what each one runs, what it prints, and the exit status it ends with."""

import json
import logging
import os
import pathlib
import sys
from collections.abc import Callable
from types import SimpleNamespace

import jax
from absl import logging as absl_logging
from etils import epath
from jax.experimental import multihost_utils

from rdfer_jax import build as build_lib
from rdfer_jax import compile_cache, paths, sharding, workarounds
from rdfer_jax import config as config_lib
from rdfer_jax.cli import Call
from rdfer_jax.config import Config
from rdfer_jax.export import exporter
from rdfer_jax.labels import audit as audit_lib
from rdfer_jax.labels import inject as inject_lib
from rdfer_jax.labels import relabel as relabel_lib
from rdfer_jax.labels import vote_noise
from rdfer_jax.predict import command as predict_command
from rdfer_jax.predict import exported, live
from rdfer_jax.report import check_page
from rdfer_jax.report import report as report_lib
from rdfer_jax.training import crossval as crossval_lib
from rdfer_jax.training import evaluate
from rdfer_jax.training import pretrain as pretrain_lib
from rdfer_jax.training import train as train_lib
from rdfer_jax.training.loop import NonFiniteLossError
from rdfer_jax.training.preemption import PreemptedError, is_peer_failure
from rdfer_jax.web import server

log = logging.getLogger("rdfer_jax")

#: Errors that the user can fix; they are shown without a stack trace.
USER_ERRORS = (ValueError, OSError, NonFiniteLossError)
#: Heartbeat timeout of a process, in seconds.
HEARTBEAT = 30


def run(call: Call) -> None:
    """Runs a command; ends the process with an exit status if the command fails or is stopped."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    log.setLevel(logging.INFO)
    status: int | str | None = None
    try:
        for name in ("output", "web"):
            _check_place(name, getattr(call.flags, name, None))
        COMMANDS[call.command](call.flags)
    except PreemptedError as stop:
        print(stop)
        status = stop.exit_status
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        status = 130
    except Exception as error:
        log.debug("", exc_info=True)
        if is_peer_failure(error):
            print(
                "error: another process of this job ended or cannot be reached: "
                f"{str(error).splitlines()[0]}\nRestart all processes: training resumes from the last "
                "checkpoint",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)  # a normal exit would wait for that process
        if workarounds.reports_killed_worker(error):
            status = (
                "error: a data worker process was killed, perhaps because memory ran out: lower "
                "config.data.num_workers. Training resumes from the last checkpoint"
            )
        elif isinstance(error, USER_ERRORS):
            status = f"error: {error}"
        else:
            raise
    # Outside of the except clauses: there, the exception would keep the data readers alive until Python's
    # very end.
    if status is not None:
        sys.exit(status)


def _check_place(name: str, value: str | None) -> None:
    """Raises OSError, before any work, if nothing can be written below the path that a flag gives."""
    if not value or not paths.is_local(value):
        return
    path = pathlib.Path(value).absolute()
    there = next(folder for folder in path.parents if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"--{name}={value}: {there} is a file; choose another place")
    if not os.access(there, os.W_OK):
        raise PermissionError(
            f"--{name}={value}: {there} cannot be written to; choose another place"
        )


def train(flags: SimpleNamespace) -> None:
    """Trains and evaluates a run."""
    config = _start(flags)
    _print_results(train_lib.train(config, flags.workdir), flags.workdir)


def pretrain(flags: SimpleNamespace) -> None:
    """Pretrains a trunk without labels."""
    config = _start(flags)
    loss = pretrain_lib.pretrain(config, flags.workdir)
    if jax.process_index() == 0:
        path = epath.Path(flags.workdir) / pretrain_lib.WEIGHTS
        print(
            f"loss {loss:.3f}; weights in {path}. To train from them: rdfer train --config=... "
            f"--workdir=... --config.init_from={path} --config.model.trunk={config.model.trunk}"
        )


def evaluate_run(flags: SimpleNamespace) -> None:
    """Evaluates a checkpoint of a run."""
    config = _start(flags)
    _print_results(evaluate.evaluate(config, flags.workdir, flags.checkpoint), flags.workdir)


def crossval(flags: SimpleNamespace) -> None:
    """Trains a run for each fold."""
    config = _start(flags)
    results = crossval_lib.crossval(config, flags.workdir, flags.folds)
    if jax.process_index() == 0:
        print(crossval_lib.table(results))


def check(flags: SimpleNamespace) -> None:
    """Checks a data set; the exit status is 1 if there are problems."""
    config = config_lib.resolve(flags.config)
    output = epath.Path(flags.output) if flags.output else None
    is_page = output is not None and output.suffix.lower() in (".html", ".htm")
    if output and output.is_dir():
        raise IsADirectoryError(f"--output={output}: a folder; give a .json or .html file")
    checked = build_lib.check(config, with_strips=is_page)
    print(checked.text())
    if output:
        text = check_page.page(checked) if is_page else json.dumps(checked.json(), indent=2) + "\n"
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(text.encode())
        print(f"result in {output}")
    if checked.problems:
        sys.exit(1)


def build(flags: SimpleNamespace) -> None:
    """Builds a data set."""
    build_lib.build(config_lib.resolve(flags.config), tells=True)


def predict(flags: SimpleNamespace) -> None:
    """Predicts the expressions in the user's videos."""
    settings = config_lib.resolve(flags.config).predict if flags.config else None
    compile_cache.use(flags.compile_cache or "")
    predict_command.predict(
        flags.workdir,
        flags.input,
        flags.output,
        flags.checkpoint,
        settings,
        force=flags.force,
        runtime=flags.runtime,
    )


def web(flags: SimpleNamespace) -> None:
    """Serves a page until it is stopped."""
    with server.serve(pathlib.Path(flags.dir), flags.port) as running:
        print(f"{server.address(running)} (Ctrl-C stops it)", flush=True)
        running.serve_forever()


def export(flags: SimpleNamespace) -> None:
    """Writes a network as files that run without this package, or as a page for browsers."""
    if not (flags.output or flags.web):
        raise ValueError("rdfer export needs --output: folder for the files; or --web: for a page")
    settings = config_lib.resolve(flags.config).predict if flags.config else None
    if flags.output:
        formats = [name for name in flags.formats.split(",") if name]
        card = exported.export(
            flags.workdir, flags.output, flags.checkpoint, formats, flags.quantize, settings
        )
        print(exported.describe(card, flags.output))
    if flags.web:
        _export_page(flags, settings)


def _export_page(flags: SimpleNamespace, settings: config_lib.Predict | None) -> None:
    """Writes the page of a network, for which the extra `export` is needed."""
    try:
        from rdfer_jax.web import site
    except ImportError as error:
        raise exporter.missing(error) from None
    size = site.export(
        flags.workdir, flags.web, flags.checkpoint, flags.quantize, settings, flags.onnxruntime
    )
    print(
        f"page in {flags.web}, a download of {size / 1e6:.1f} MB. To look at it: rdfer web "
        f"--dir={flags.web}. To publish it: copy the folder to any web server"
    )


def watch(flags: SimpleNamespace) -> None:
    """Predicts a camera, a stream, or a file played as if live."""
    settings = config_lib.resolve(flags.config).predict if flags.config else None
    compile_cache.use(flags.compile_cache or "")
    live.run(
        flags.workdir, flags.input, flags.output, flags.checkpoint, settings, flags.runtime,
        show=flags.show,
    )  # fmt: skip


def audit(flags: SimpleNamespace) -> None:
    """Audits the labels of a data set."""
    result = audit_lib.run(
        flags.workdir, flags.output, flags.force, flags.precision, flags.reviewed
    )
    print(audit_lib.describe(result))
    print(f"audit in {epath.Path(flags.output or epath.Path(flags.workdir) / 'audit')}")


def report(flags: SimpleNamespace) -> None:
    """Writes the report of a run."""
    print(f"report in {report_lib.write(flags.workdir, flags.output)}")


def relabel(flags: SimpleNamespace) -> None:
    """Writes labels for a second training."""
    total, changed = relabel_lib.write(flags.workdir, flags.output, flags.score, flags.threshold)
    print(f"{flags.output}: {changed} of {total} labels replaced")


def inject(flags: SimpleNamespace) -> None:
    """Writes wrong labels for the training split of a data set."""
    data = config_lib.resolve(flags.config).data
    asked = (data, flags.kind, flags.rate, flags.seed, flags.output)
    if flags.kind in vote_noise.KINDS:
        print(f"{flags.output}: {vote_noise.write(*asked, expect=flags.expect).describe()}")
        return
    if flags.expect is not None:
        raise ValueError(f"--expect needs --kind={'|'.join(vote_noise.KINDS)}, got {flags.kind}")
    print(f"{flags.output}: {inject_lib.describe(inject_lib.write_flips(*asked))}")


COMMANDS: dict[str, Callable[[SimpleNamespace], None]] = {
    "train": train,
    "pretrain": pretrain,
    "eval": evaluate_run,
    "crossval": crossval,
    "check": check,
    "build": build,
    "predict": predict,
    "export": export,
    "live": watch,
    "web": web,
    "audit": audit,
    "report": report,
    "relabel": relabel,
    "inject": inject,
}


def _start(flags: SimpleNamespace) -> Config:
    """Sets up the process and its devices, and builds a synthetic data set if it is missing."""
    config = config_lib.resolve(flags.config)
    workarounds.tune_glibc_malloc()
    sharding.split_cpu(config.cpu_devices)
    if config.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.compile_cache)
    if flags.coordinator:
        jax.distributed.initialize(
            flags.coordinator, flags.processes, flags.process, heartbeat_timeout_seconds=HEARTBEAT
        )
    elif flags.multihost:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
    if config.data.name == "synthetic_faces":
        # Built if it is missing; an error if it was built with other options.
        if jax.process_index() == 0:
            build_lib.build(config)
        multihost_utils.sync_global_devices("the data set is built")
    return config


def _print_results(results: dict, workdir: str) -> None:
    if jax.process_index() != 0:
        return
    print(evaluate.describe(results))
    if "best_on_validation" in results:
        print("\nbest on validation: " + evaluate.describe(results["best_on_validation"]))
    print(f"results in {epath.Path(workdir) / 'results.json'}")
