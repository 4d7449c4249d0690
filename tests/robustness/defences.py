"""The defences of the code against faults, and the tests that must notice when one is removed.

mutations.py removes them. A row names the function that holds the defence and an identifier that marks the
place in that function, so only a rename of one of these concerns this file.
"""

from typing import NamedTuple

RUNS, INPUTS = "tests/faults/test_runs.py", "tests/faults/test_inputs.py"
CACHE, RUN_DIR = "tests/pipeline/test_frame_cache.py", "tests/training/test_run_dir.py"
CHECKPOINTS, RECORDS = "tests/faults/test_checkpoints.py", "tests/faults/test_records.py"
LOOP = "tests/training/test_loop.py"


class Defence(NamedTuple):
    """Code that keeps a fault from doing harm.

    Attributes:
      fault: what the defence is against.
      function: "module:name" of the function that holds it; "module:" for the module.
      kind: how to remove it: a key of mutations.KINDS, or the name of an operator of cosmic-ray.
      about: an identifier in what is removed.
      test: a test file, or "file::test", that must fail without the defence.
    """

    fault: str
    function: str
    kind: str
    about: str
    test: str


# fmt: off
DEFENCES = tuple(Defence(*row) for row in (
    # Runs that are interrupted.
    ("SIGTERM", "rdfer_jax.training.preemption:StopSignals.stop_requested", "return", "received",
     f"{RUNS}::test_sigterm_saves_within_a_step_and_says_so"),
    ("SIGTERM: the state is saved", "rdfer_jax.training.loop:Loop._stop", "statement", "save",
     f"{LOOP}::test_a_signal_saves_the_current_step_even_if_no_save_is_due"),
    ("disk full while saving", "rdfer_jax.training.checkpoint:Checkpoints.save", "except", "OSError",
     f"{RUNS}::test_a_full_disk_leaves_older_checkpoints"),
    ("checkpoint with other bytes", "rdfer_jax.training.integrity:damage", "never", "_sum",
     f"{CHECKPOINTS}::test_restoring_a_damaged_checkpoint_fails_and_names_the_file"),
    ("checkpoint with a file missing", "rdfer_jax.training.integrity:damage", "never", "name",
     f"{CHECKPOINTS}::test_restoring_a_damaged_checkpoint_fails_and_names_the_file"),
    ("checkpoint damaged: the previous one is used", "rdfer_jax.training.train:_train", "statement",
     "quarantine_damaged", f"{RUNS}::test_training_resumes_from_the_checkpoint_before_a_damaged_one"),
    ("checkpoint partly written", "rdfer_jax.training.checkpoint:Checkpoints.__init__",
     "core/ReplaceTrueWithFalse", "cleanup_tmp_directories",
     f"{CHECKPOINTS}::test_the_temporary_folder_of_a_killed_save_is_removed"),
    ("file of a run partly written", "rdfer_jax.atomic:replacement", "call", "with_name",
     "tests/test_atomic.py"),
    ("metrics of a killed run", "rdfer_jax.training.writers:_repaired_lines", "always", "resume_step",
     "tests/training/test_writers.py"),
    ("record file missing or truncated", "rdfer_jax.pipeline.source:Split.check", "statement", "firsts",
     f"{RECORDS}::test_a_damaged_file_is_named_when_the_splits_are_opened"),
    ("record damaged", "rdfer_jax.pipeline.records:StoredSplit.read", "except", "KeyError",
     f"{RECORDS}::test_later_damage_is_named_when_the_record_is_read"),
    ("cached frames truncated", "rdfer_jax.pipeline.frame_cache:CachedFrames.take", "never", "count",
     f"{CACHE}::test_a_file_that_is_cut_while_it_is_read_is_named"),
    ("cached frames of other data", "rdfer_jax.pipeline.frame_cache:_open", "never", "array_equal",
     f"{CACHE}::test_frames_of_another_data_set_are_not_taken"),
    ("cached frames being written", "rdfer_jax.pipeline.frame_cache:cached", "with", "FileLock",
     f"{CACHE}::test_one_fills_and_the_others_wait"),
    ("no room for cached frames", "rdfer_jax.pipeline.frame_cache:_check_disk", "never", "needed",
     f"{CACHE}::test_no_room_is_told_early_and_leaves_nothing"),
    ("disk full while caching frames", "rdfer_jax.pipeline.frame_cache:_create", "statement",
     "ignore_errors", f"{CACHE}::test_a_full_disk_is_told_and_leaves_nothing"),
    ("data worker killed", "rdfer_jax.commands:run", "never", "reports_killed_worker",
     f"{RUNS}::test_a_killed_worker_process_is_reported"),
    ("run killed: data workers live on", "rdfer_jax.pipeline.workers:start_worker", "statement",
     "exit_with_parent", f"{RUNS}::test_no_worker_process_or_shared_memory_is_left_behind"),
    ("run killed: shared memory stays", "rdfer_jax.pipeline.loader:_batches", "statement",
     "remove_stale_segments", f"{RUNS}::test_no_worker_process_or_shared_memory_is_left_behind"),
    ("peer process killed", "rdfer_jax.commands:run", "never", "is_peer_failure",
     f"{RUNS}::test_a_lost_peer_is_reported_at_once"),
    ("peer process killed while saving", "rdfer_jax.training.checkpoint:Checkpoints.save", "never",
     "is_peer_failure", f"{CHECKPOINTS}::test_a_lost_process_is_told_apart_from_a_full_disk"),
    ("read-only folder", "rdfer_jax.commands:run", "never", "USER_ERRORS",
     f"{RUNS}::test_a_read_only_folder_is_reported_before_any_work"),
    ("two runs in one folder", "rdfer_jax.training.run_dir:run_lock", "except", "Timeout",
     f"{RUNS}::test_a_second_run_in_the_same_folder_is_refused"),
    ("other settings", "rdfer_jax.training.run_dir:check_config", "never", "differences",
     f"{RUN_DIR}::test_settings_that_change_what_is_learned_must_stay"),
    ("other data", "rdfer_jax.training.run_dir:check_data", "never", "fingerprint",
     f"{RUN_DIR}::test_data_of_a_run_must_stay"),
    ("other labels", "rdfer_jax.pipeline.source:fingerprint", "statement", "labels",
     f"{RECORDS}::test_the_fingerprint_identifies_data_and_labels"),
    ("resumed with another number of workers", "rdfer_jax.pipeline.loader:_batches",
     "core/ReplaceBinaryOperator_Mul_Sub", "start",
     f"{RUNS}::test_resuming_with_another_number_of_workers_gives_the_same_result"),
    ("loss not finite", "rdfer_jax.training.loop:Loop._check_finite", "always", "isfinite",
     f"{LOOP}::test_a_non_finite_loss_stops_the_run_before_it_is_saved"),
    ("clock jumps", "rdfer_jax.training.loop:MetricLogger._read", "wall clock", "monotonic",
     f"{LOOP}::test_a_clock_jump_changes_only_the_written_times"),
    ("gradient too large", "rdfer_jax.optim:create", "never", "clip_norm",
     "tests/test_optim.py::test_a_step_is_that_of_adamw_with_the_gradient_clipped"),
    ("class absent from the test split", "rdfer_jax.metrics:uar", "always", "occurs_C",
     "tests/test_metrics.py::test_absent_class_has_no_recall_and_is_left_out_of_uar"),
    # Files of users.
    ("label out of range", "data.dfew.dfew_dataset_builder:read_list", "never", "label_base",
     "tests/data/test_dfew.py"),
    ("clip named twice", "data.dfew.dfew_dataset_builder:read_list", "never", "result",
     "tests/data/test_dfew.py"),
    ("clip in two folds", "data.raw:check_folds", "never", "first_fold",
     "tests/data/test_dfew.py::test_a_clip_tested_in_two_folds_is_an_error"),
    ("unknown class", "rdfer_jax.pipeline.label_files:read", "never", "index",
     "tests/pipeline/test_label_files.py"),
    ("wrong header", "rdfer_jax.pipeline.label_files:_check_columns", "never", "count",
     f"{INPUTS}::test_a_line_that_means_harm_is_refused_and_named"),
    ("wrong encoding", "data.raw:read_lines", "never", "_UTF16",
     f"{INPUTS}::test_a_file_in_no_known_form_is_refused_and_named"),
    ("line ends of another system", "data.raw:read_lines", "call", "replace",
     f"{INPUTS}::test_every_kind_of_line_end_ends_one_line"),
    ("path out of the folder", "data.raw:relative_path", "never", "is_outside",
     f"{INPUTS}::test_a_line_that_means_harm_is_refused_and_named"),
    ("link out of the folder", "data.frames:_check_inside", "never", "root",
     f"{INPUTS}::test_a_link_out_of_the_root_is_refused_where_a_list_names_clips"),
    ("pipe instead of a frame", "rdfer_jax.media.files:check_is_file", "never", "is_file",
     f"{INPUTS}::test_a_pipe_is_no_clip"),
    ("clip without frames", "data.frames:frame_files", "never", "pictures",
     "tests/data/test_frames.py"),
    ("frame truncated: found before conversion", "data.frames:_check_picture", "never", "is_whole",
     "tests/data/test_frames.py::test_a_broken_picture_is_named"),
    ("picture that claims to be enormous", "rdfer_jax.media.files:check_size", "never", "MAX_PIXELS",
     f"{INPUTS}::test_a_picture_that_claims_too_many_pixels_is_refused_unread"),
    ("video with a wrong length", "data.frames:convert", "never", "_LEAST_SHARE",
     f"{INPUTS}::test_a_video_that_lies_about_its_length_gives_what_it_has"),
    ("spreadsheet that unpacks to gigabytes", "data.raw:_sheets", "never", "unpacked",
     f"{INPUTS}::test_a_spreadsheet_that_cannot_be_read_is_named"),
    ("too many clips missing", "data.recorded:ClipBuilder._leave_out", "never", "allowed",
     f"{INPUTS}::test_allow_missing_is_a_budget"),
    ("build interrupted", "rdfer_jax.pipeline.source:find", "always", "exists",
     "tests/pipeline/test_source.py"),
    # Files from strangers.
    ("pickle in predictions", "rdfer_jax.training.predictions:read_predictions",
     "core/ReplaceFalseWithTrue", "allow_pickle",
     "tests/faults/test_predictions.py::test_damaged_predictions_are_refused_and_named"),
    ("pickle in weights", "rdfer_jax.models.pretrained:_read_torch", "core/ReplaceTrueWithFalse",
     "weights_only", "tests/models/test_pretrained.py::test_nothing_in_a_file_is_run"),
    ("markup in names", "rdfer_jax.html:", "core/ReplaceTrueWithFalse", "autoescape",
     "tests/report/test_report.py"),
    ("script in names", "rdfer_jax.html:embed", "statement", "escaped",
     "tests/report/test_report.py::test_embedded_json_cannot_end_its_script"),
))
# fmt: on
