"""Takes each defence of docs/reliability.md out of the code, one by one, and looks whether a test notices.

    python -m tests.robustness.mutations                 # all of them: some ten minutes
    python -m tests.robustness.mutations --only=disk     # those with the word in their fault

A defence is taken out in a copy of the project, by putting another text in place of its own. The tests
named beside it have to pass before and to fail then; tests that are skipped on this machine say so.

Prints a table, writes defences.json, and exits with 1 where a test did not notice.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import tqdm
from absl import app, flags
from absl import logging as absl_logging

from benchmarks import harness

ROOT = pathlib.Path(__file__).parents[2]
RUNS, INPUTS = "tests/faults/test_runs.py", "tests/faults/test_inputs.py"
FRAMES = "tests/pipeline/test_frame_cache.py"
CHECKPOINTS, RECORDS = "tests/faults/test_checkpoints.py", "tests/faults/test_records.py"


class Defence(NamedTuple):
    """Something that keeps a fault from doing harm.

    Attributes:
      fault: what it is against.
      file: where it is.
      text: what is taken out; once in the file.
      instead: what comes in its place.
      test: what has to notice: a file of tests, and after :: the name of a test in it.
    """

    fault: str
    file: str
    text: str
    instead: str
    test: str


DEFENCES = (
    # Runs that are hurt.
    Defence(
        "SIGTERM",
        "rdfer_jax/training/preemption.py",
        "return self.received is not None",
        "return False",
        f"{RUNS}::test_asked_to_end_it_saves_within_a_step_and_says_so",
    ),
    Defence(
        "SIGTERM: what was done is saved",
        "rdfer_jax/training/loop.py",
        "        self.checkpoints.save(done, state, None)\n        self._end_trace()",
        "        self._end_trace()",
        "tests/training/test_loop.py::test_saves_the_step_that_was_under_way_when_it_was_asked_to_end",
    ),
    Defence(
        "disk full while saving",
        "rdfer_jax/training/checkpoint.py",
        "except (OSError, RuntimeError, ValueError) as error:\n            if is_peer",
        "except ZeroDivisionError as error:\n            if is_peer",
        f"{RUNS}::test_a_full_disk_leaves_the_older_checkpoints",
    ),
    Defence(
        "checkpoint with other bytes",
        "rdfer_jax/training/checkpoint.py",
        "if _sum(path / name) != wanted:",
        "if False:",
        f"{CHECKPOINTS}::test_a_damaged_checkpoint_is_refused_and_the_file_is_named",
    ),
    Defence(
        "checkpoint with a file missing",
        "rdfer_jax/training/checkpoint.py",
        "if not (path / name).exists():",
        "if False:",
        f"{CHECKPOINTS}::test_a_damaged_checkpoint_is_refused_and_the_file_is_named",
    ),
    Defence(
        "checkpoint damaged: the one before is taken",
        "rdfer_jax/training/train.py",
        "        quarantine_damaged(workdir)\n",
        "        pass\n",
        f"{RUNS}::test_a_damaged_newest_checkpoint_costs_only_its_steps",
    ),
    Defence(
        "checkpoint half written",
        "rdfer_jax/training/checkpoint.py",
        "cleanup_tmp_directories=True",
        "cleanup_tmp_directories=False",
        f"{CHECKPOINTS}::test_what_a_killed_save_left_is_removed",
    ),
    Defence(
        "file of a run half written",
        "rdfer_jax/training/run_dir.py",
        '    beside = path.with_name(f".{path.name}.new")\n',
        "    beside = path\n",
        "tests/training/test_run_dir.py::test_a_file_is_written_whole_or_not_at_all",
    ),
    Defence(
        "metrics of a killed run",
        "rdfer_jax/training/writers.py",
        'elif resume_step is None or row["step"] <= resume_step:',
        "else:",
        "tests/training/test_writers.py",
    ),
    Defence(
        "record file missing or cut",
        "rdfer_jax/pipeline/source.py",
        "                list(pool.map(stored.read, stored.firsts()))\n",
        "                pass\n",
        f"{RECORDS}::test_a_hurt_file_is_named_before_any_work",
    ),
    Defence(
        "record damaged inside",
        "rdfer_jax/pipeline/records.py",
        "except (RuntimeError, ValueError, KeyError, OSError) as error:",
        "except ZeroDivisionError as error:",
        f"{RECORDS}::test_what_is_hurt_later_is_named_when_it_is_read",
    ),
    Defence(
        "decoded frames cut short",
        "rdfer_jax/pipeline/frame_cache.py",
        "if got != frame.nbytes:",
        "if False:",
        f"{FRAMES}::test_a_file_that_is_cut_while_it_is_read_is_named",
    ),
    Defence(
        "decoded frames of other data",
        "rdfer_jax/pipeline/frame_cache.py",
        "or not np.array_equal(",
        "or None in (",
        f"{FRAMES}::test_frames_of_another_data_set_are_not_taken",
    ),
    Defence(
        "decoded frames that are being written",
        "rdfer_jax/pipeline/frame_cache.py",
        "fcntl.flock(file, fcntl.LOCK_EX)",
        "pass",
        f"{FRAMES}::test_one_fills_and_the_others_wait",
    ),
    Defence(
        "no room for decoded frames",
        "rdfer_jax/pipeline/frame_cache.py",
        "if needed > free:",
        "if False:",
        f"{FRAMES}::test_no_room_is_told_early_and_leaves_nothing",
    ),
    Defence(
        "disk full while frames are decoded",
        "rdfer_jax/pipeline/frame_cache.py",
        "        shutil.rmtree(beside, ignore_errors=True)\n        raise",
        "        raise",
        f"{FRAMES}::test_a_full_disk_is_told_and_leaves_nothing",
    ),
    Defence(
        "a reading process is killed",
        "rdfer_jax/commands.py",
        'if "Worker process was terminated" in str(error):',
        "if False:",
        f"{RUNS}::test_a_killed_reading_process_is_told_of",
    ),
    Defence(
        "run killed: its reading processes live on",
        "rdfer_jax/pipeline/loader.py",
        "    shared.end_with_parent()\n",
        "",
        f"{RUNS}::test_no_reading_process_and_no_shared_memory_stays_behind",
    ),
    Defence(
        "run ended: its shared memory stays",
        "rdfer_jax/pipeline/loader.py",
        "        shared.leave_nothing()\n",
        "",
        f"{RUNS}::test_no_reading_process_and_no_shared_memory_stays_behind",
    ),
    Defence(
        "one of two processes is killed",
        "rdfer_jax/commands.py",
        "if is_peer_failure(error):",
        "if False:",
        f"{RUNS}::test_the_other_process_says_at_once_that_one_is_lost",
    ),
    Defence(
        "one of two processes is killed while both save",
        "rdfer_jax/training/checkpoint.py",
        "            if is_peer_failure(error):\n",
        "            if False:\n",
        f"{CHECKPOINTS}::test_a_lost_process_is_no_fault_of_the_disk",
    ),
    Defence(
        "read-only folder",
        "rdfer_jax/commands.py",
        "USER_ERRORS = (ValueError, OSError, NonFiniteLossError)",
        "USER_ERRORS = (ValueError, NonFiniteLossError)",
        f"{RUNS}::test_a_folder_that_cannot_be_written_to_is_told_of_before_any_work",
    ),
    Defence(
        "two runs in one folder",
        "rdfer_jax/training/run_dir.py",
        "            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        f"{RUNS}::test_two_runs_in_one_folder_do_not_mix",
    ),
    Defence(
        "other settings",
        "rdfer_jax/training/run_dir.py",
        "    if differ:\n        raise ValueError(",
        "    if False:\n        raise ValueError(",
        "tests/training/test_run_dir.py::test_settings_that_change_what_is_learned_must_stay",
    ),
    Defence(
        "other data",
        "rdfer_jax/training/run_dir.py",
        'if known.get("fingerprint") and known["fingerprint"] != fingerprint:',
        "if False:",
        "tests/training/test_run_dir.py::test_data_of_a_run_must_stay",
    ),
    Defence(
        "other labels",
        "rdfer_jax/pipeline/source.py",
        "        digest.update(epath.Path(labels).read_bytes())\n",
        "        pass\n",
        f"{RECORDS}::test_the_fingerprint_tells_data_from_other_data",
    ),
    Defence(
        "other number of workers: the data go on where they were",
        "rdfer_jax/pipeline/loader.py",
        "dataset = dataset[start * processes + process :: processes]",
        "dataset = dataset[process::processes]",
        f"{RUNS}::test_another_number_of_workers_changes_nothing",
    ),
    Defence(
        "loss not finite",
        "rdfer_jax/training/loop.py",
        'if newest is None or np.isfinite(newest[1]["loss"]):',
        "if True:",
        "tests/training/test_loop.py::test_stops_on_a_loss_that_is_no_number_before_saving_it",
    ),
    Defence(
        "clock jumps",
        "rdfer_jax/training/loop.py",
        "taken = max(time.monotonic() - self._clock, 1e-9)",
        "taken = max(time.time() - self._clock, 1e-9)",
        "tests/training/test_loop.py::test_a_clock_that_jumps_changes_nothing_but_the_times_that_are_written",
    ),
    Defence(
        "gradient too large",
        "rdfer_jax/optim.py",
        "    if settings.clip_norm:\n",
        "    if False:\n",
        "tests/test_optim.py::test_a_step_is_that_of_adamw_with_the_gradient_clipped",
    ),
    Defence(
        "class absent from the test split",
        "rdfer_jax/metrics.py",
        'return float(recall_C[occurs_C].mean()) if occurs_C.any() else float("nan")',
        "return float(recall_C.mean())",
        "tests/test_metrics.py::test_absent_class_has_no_recall_and_is_left_out_of_uar",
    ),
    # What users supply.
    Defence(
        "label out of range",
        "data/dfew/dfew_dataset_builder.py",
        "if not label_base <= label < label_base + _N:",
        "if False:",
        "tests/data/test_dfew.py",
    ),
    Defence(
        "clip named twice",
        "data/dfew/dfew_dataset_builder.py",
        "        if name in result:\n",
        "        if False:\n",
        "tests/data/test_dfew.py",
    ),
    Defence(
        "clip in two folds",
        "data/raw.py",
        "            if clip in first_fold:\n",
        "            if False:\n",
        "tests/data/test_dfew.py::test_a_clip_tested_in_two_folds_is_an_error",
    ),
    Defence(
        "class unknown",
        "rdfer_jax/pipeline/label_files.py",
        "if label not in index:",
        "if False:",
        "tests/pipeline/test_label_files.py",
    ),
    Defence(
        "header wrong",
        "rdfer_jax/pipeline/label_files.py",
        "if names.count(column) != 1:",
        "if column not in names:",
        f"{INPUTS}::test_a_line_that_means_harm_is_refused_and_named",
    ),
    Defence(
        "encoding wrong",
        "data/raw.py",
        'if data.startswith(_UTF16) or b"\\0" in data:',
        "if False:",
        f"{INPUTS}::test_a_file_in_no_known_form_is_refused_and_named",
    ),
    Defence(
        "line ends of another system",
        "data/raw.py",
        '.replace("\\r\\n", "\\n").replace("\\r", "\\n")',
        "",
        f"{INPUTS}::test_a_lone_carriage_return_ends_a_line",
    ),
    Defence(
        "path out of the folder",
        "data/raw.py",
        "if not value.strip() or is_outside:",
        "if not value.strip():",
        f"{INPUTS}::test_a_line_that_means_harm_is_refused_and_named",
    ),
    Defence(
        "link out of the folder",
        "data/frames.py",
        "if root and not epath.Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):",
        "if False:",
        f"{INPUTS}::test_a_link_out_of_the_root_is_refused_where_a_list_names_clips",
    ),
    Defence(
        "pipe instead of a frame",
        "rdfer_jax/media/files.py",
        "if local.exists() and not local.is_file():",
        "if False:",
        f"{INPUTS}::test_a_pipe_is_no_clip",
    ),
    Defence(
        "clip without frames",
        "data/frames.py",
        "    if not pictures:\n",
        "    if False:\n",
        "tests/data/test_frames.py",
    ),
    Defence(
        "frame cut off: told before anything is converted",
        "data/frames.py",
        "    if not is_whole:\n",
        "    if False:\n",
        "tests/data/test_frames.py::test_a_broken_picture_is_named",
    ),
    Defence(
        "picture that claims to be enormous",
        "rdfer_jax/media/files.py",
        "    if height * width > MAX_PIXELS:\n",
        "    if False:\n",
        f"{INPUTS}::test_a_picture_that_claims_too_many_pixels_is_refused_unread",
    ),
    Defence(
        "video that lies about its length",
        "data/frames.py",
        "        if reader.read < reader.declared / 2:\n",
        "    if False:\n",
        f"{INPUTS}::test_a_video_that_lies_about_its_length_gives_what_it_has",
    ),
    Defence(
        "spreadsheet that unpacks to gigabytes",
        "data/raw.py",
        "if unpacked > _MOST_UNPACKED:",
        "if False:",
        f"{INPUTS}::test_a_spreadsheet_that_cannot_be_read_is_named",
    ),
    Defence(
        "more clips missing than allowed",
        "data/recorded.py",
        "        if number > allowed:\n",
        "        if False:\n",
        f"{INPUTS}::test_allow_missing_is_a_budget",
    ),
    Defence(
        "build cut short",
        "rdfer_jax/pipeline/source.py",
        'if (p / "dataset_info.json").exists()',
        "if p.is_dir()",
        "tests/pipeline/test_source.py",
    ),
    # Files from strangers.
    Defence(
        "pickle in predictions",
        "rdfer_jax/training/predictions.py",
        "allow_pickle=False",
        "allow_pickle=True",
        "tests/faults/test_predictions.py::test_damaged_predictions_are_refused_and_named",
    ),
    Defence(
        "pickle in weights",
        "rdfer_jax/models/pretrained.py",
        'map_location="cpu", weights_only=True',
        'map_location="cpu", weights_only=False',
        "tests/models/test_pretrained.py::test_nothing_in_a_file_is_run",
    ),
    Defence(
        "markup in names",
        "rdfer_jax/html.py",
        "autoescape=True",
        "autoescape=False",
        "tests/report/test_report.py",
    ),
    Defence(
        "script in names",
        "rdfer_jax/html.py",
        "        text = text.replace(character, escaped)\n",
        "        pass\n",
        "tests/report/test_report.py::test_embedded_json_cannot_end_its_script",
    ),
)


def without(defence: Defence, code: str) -> str:
    """Returns the code of the defence's file without it.

    Raises:
      ValueError: it is not there exactly once: the code has changed, and this list has to follow.
    """
    if (count := code.count(defence.text)) != 1:
        raise ValueError(
            f"{defence.file}: {count} times {defence.text!r}, defence against {defence.fault}"
        )
    return code.replace(defence.text, defence.instead)


def copy(root: pathlib.Path) -> None:
    """Copies the files of the project that git knows of, as they are now."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, root / name)
    if (ROOT.parent / "shared").is_dir():
        (root.parent / "shared").symlink_to(ROOT.parent / "shared")


def run(test: str, root: pathlib.Path) -> str:
    """Runs tests in a copy of the project.

    Returns:
      passes, fails, skipped where none of them could run here, or what else came of it.
    """
    found = root.parent / "found.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", f"--junit-xml={found}", test],
        cwd=root, capture_output=True, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    if done.returncode:
        return "fails" if done.returncode == 1 else f"exit status {done.returncode}"
    (suite,) = ElementTree.parse(found).iter("testsuite")
    return "passes" if int(suite.attrib["tests"]) > int(suite.attrib["skipped"]) else "skipped"


def look(defences: Sequence[Defence], root: pathlib.Path) -> list[dict[str, str | float]]:
    """Takes each of the defences out of a copy, runs its tests, and puts it back."""
    before = {
        test: run(test, root)
        for test in tqdm.tqdm(sorted({d.test for d in defences}), "as it is", disable=None)
    }
    rows: list[dict[str, str | float]] = []
    for defence in tqdm.tqdm(defences, "without", disable=None):
        path = root / defence.file
        code = path.read_text()
        path.write_text(without(defence, code))
        began = time.monotonic()
        try:
            after = run(defence.test, root)
        finally:
            path.write_text(code)
        rows.append(
            {
                "fault": defence.fault,
                "file": defence.file,
                "test": defence.test.removeprefix("tests/"),
                "with": before[defence.test],
                "without": after,
                "seconds": time.monotonic() - began,
            }
        )
    return rows


def main(argv: Sequence[str]) -> None:
    """Looks at all of them, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    absl_logging.set_verbosity(absl_logging.WARNING)
    chosen = [d for d in DEFENCES if flags.FLAGS.only in d.fault]
    if not chosen:
        raise app.UsageError(f"--only={flags.FLAGS.only}: in no fault")
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "project"
        copy(root)
        rows = look(chosen, root)
    names = ("fault", "test", "with", "without")
    print(harness.table([names, *([str(row[name]) for name in names] for row in rows)]))
    noticed = [row for row in rows if (row["with"], row["without"]) == ("passes", "fails")]
    print(f"{len(noticed)} of {len(rows)} were noticed")
    output = pathlib.Path(flags.FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    report = {"hardware": harness.hardware(), "commit": harness.commit(), "found": rows}
    (output / "defences.json").write_text(harness.to_json(report))
    sys.exit(len(noticed) < len(rows))


if __name__ == "__main__":
    flags.DEFINE_string("only", "", "Only faults with this text.")
    flags.DEFINE_string("output", "runs/defences", "Folder for defences.json.")
    app.run(main)
