"""The command line: commands, flags, help, suggestions, and how the program ends."""

import logging
import os
import pathlib
import subprocess
import sys
import types
import weakref

import pytest

import rdfer_jax
from rdfer_jax import cli, commands, config_files, main
from rdfer_jax.labels import inject, vote_noise
from rdfer_jax.training.preemption import PreemptedError

ROOT = pathlib.Path(__file__).parent.parent


def usage_error(*words):
    with pytest.raises((ValueError, OSError)) as error:
        cli.parse(words)
    return str(error.value)


def test_every_command_has_flags_and_a_function():
    assert commands.COMMANDS.keys() == cli.COMMANDS.keys()
    for command in cli.COMMANDS.values():
        assert command.flags and command.text and "\n" not in command.text
        assert all(flag.text for flag in command.flags)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["--helpfull"]])
def test_help_lists_every_command_on_one_screen(words):
    text = cli.parse(words)
    lines = text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    for name, command in cli.COMMANDS.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert line.endswith(command.text)


@pytest.mark.parametrize("name", cli.COMMANDS)
@pytest.mark.parametrize("form", ["{} --help", "--mode={} --help", "--help --mode {}", "{} -h"])
def test_help_of_a_command_shows_its_own_flags_only(name, form):
    text = cli.parse(form.format(name).split())
    shown = {
        word.split("=")[0].lstrip("-")
        for word in text.split("flags:")[1].split()
        if word[:2] == "--"
    }
    own = {flag.name for flag in cli.COMMANDS[name].flags}
    assert shown - {"config.SECTION.NAME", "config.data.dir", "coordinator"} == own - {
        "coordinator"
    }
    assert ("coordinator" in shown) == ("coordinator" in own)
    assert max(map(len, text.splitlines())) <= 110


def test_help_needs_no_jax_and_names_the_kinds_of_noise():
    script = "import sys; from rdfer_jax import main; main.main(['inject', '--help']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    *help_lines, modules = done.stdout.splitlines()
    assert not {"jax", "tensorflow_datasets", "cv2"} & set(modules.split())
    assert all(kind in "".join(help_lines) for kind in (*inject.KINDS, *vote_noise.KINDS))


@pytest.mark.parametrize(
    "words",
    [
        "predict --workdir=runs/a --input=b.mp4 --checkpoint=best",
        "--mode=predict --workdir=runs/a --input=b.mp4 --checkpoint=best",
        "--workdir=runs/a --mode predict --input b.mp4 --checkpoint best",
        "predict --mode=predict --workdir runs/a -input=b.mp4 -checkpoint=best",
    ],
)
def test_a_command_is_the_first_word_or_the_mode(words):
    call = cli.parse(words.split())
    assert call.command == "predict"
    assert vars(call.flags) == {
        "workdir": "runs/a", "input": "b.mp4", "checkpoint": "best", "output": None, "config": None,
        "compile_cache": None, "force": False, "runtime": "auto",
    }  # fmt: skip


def test_training_is_the_default():
    call = cli.parse(["--config=synthetic", "--workdir=runs/a"])
    assert call.command == "train" and call.flags.workdir == "runs/a" and not call.flags.multihost
    call = cli.parse(["--config=synthetic", "--workdir=a", "--multihost", "--processes=2"])
    assert call.flags.multihost is True and call.flags.processes == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian --workdir=a", r"unknown command 'trian'. Did you mean 'train'? Known: train, pretrain"),
        ("--mode=predcit", "unknown command 'predcit'. Did you mean 'predict'?"),
        ("eval --mode=train", "several commands are given: eval, train; give one"),
        ("train --config", "--config needs a value"),
        ("train --checkpoint=best", "rdfer train has no flag --checkpoint; it belongs to rdfer eval"),
        ("--checkpoint=best", "rdfer train has no flag --checkpoint; it belongs to rdfer eval"),
        ("eval --folds=3", "rdfer eval has no flag --folds; it belongs to rdfer crossval"),
        ("report --config=dfew", "rdfer report has no flag --config; it belongs to rdfer train"),
        ("report --wrkdir=a", "rdfer report has no flag --wrkdir. Did you mean --workdir?"),
        ("report --zzz=a", "rdfer report has no flag --zzz. It has --workdir, --output"),
        ("predict --config.predict.fps=5", "--config.predict.fps needs --config"),
        ("predict a.mp4", "unexpected argument 'a.mp4': rdfer predict takes only flags"),
        ("predict --input a.mp4 b.mp4", "flags, --name=value; for several videos, --input is"),
        ("predict --input=a.mp4 --input=b.mp4", "--input is given twice, as a.mp4 and b.mp4; give one"),
        ("train --config=dfew --config=mafw --workdir=a", "--config is given twice, as dfew and mafw"),
        ("predict --workdir=a", "rdfer predict needs --input: a video"),
        ("predict --input=", "--input is empty; give a path, or leave the flag out"),
        ("predict --input=a --workdir=", "--workdir is empty; give a path"),
        ("train --config=synthetic", "rdfer train needs --workdir"),
        ("train --workdir=a", "rdfer train needs --config"),
        ("inject --config=dfew", "rdfer inject needs --output"),
        ("crossval --config=dfew --workdir=a --folds=many", "--folds=many: expected a whole number"),
        ("train --config=dfew --config.data.framse=3", "has no setting 'framse'. Did you mean 'frames'?"),
        ("train --config=dfew --config.dta.frames=3", "config has no setting 'dta'. Did you mean 'data'?"),
        ("train --config=dfew --config.seed.x=3", "config.seed has no setting 'x'"),
        ("train --config=dfew --config.data.frames=x", "config.data.frames=x: expected a number or auto"),
        ("train --config=dfew --config.data.label=x", "has no setting 'label'. Did you mean 'labels'?"),
        ("train --config=dfew --config.data.label", "has no setting 'label'. Did you mean 'labels'?"),
        ("train --config=dfew --config.data=3", "--config.data is a section: set one of its settings"),
        ("train --config=dfew --config.=3", "--config.: config has no setting ''"),
        ("train --config=dfew --data.frames=3", "Did you mean --config.data.frames?"),
        ("train --config=dfew --config.optim.learning_rate=1%", "learning_rate=1%: expected a number"),
        ("build --config=dfew --config.build.face_align=maybe", "=maybe: expected True or False"),
        ("build --config=dfew --config.build.crop_faces=yes", "=yes: expected True, False or auto"),
        ("build --config=video_folder --source_dir=a", "Did you mean --config.build.source_dir?"),
        ("build --config=dfew --config.build.allow_missing=x", "expected True, False or a number, got 'x'"),
        ("train --config=dfwe", "is called 'dfwe'. Did you mean 'dfew'? Known: dfew, dfew_clip_b16_lora"),
        ("train --config=zzz", "no configuration is called 'zzz'. Known: dfew, dfew_clip_b16_lora"),
        ("train --config=../configs/dfew", "no configuration is called '../configs/dfew'"),
        ("train --config=conf/dfew.py", "no file conf/dfew.py. Did you mean 'dfew'?"),
        ("train --config=dfew:9", "--config=dfew:9: fold: expected one of 1, 2, 3, 4, 5, got '9'"),
        ("train --config=synthetic:2", "takes no argument; use --config=synthetic"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_an_error_that_says_what_is_right(words, message):
    assert message in usage_error(*words.split())


@pytest.mark.parametrize("name", config_files.names())
def test_a_configuration_by_name_is_the_one_by_path(name):
    assert (ROOT / "configs" / f"{name}.py").is_file()
    by_name, by_path = config_files.load(name), config_files.load(str(ROOT / f"configs/{name}.py"))
    assert by_name.to_dict() == by_path.to_dict()


def test_settings_are_overridden_and_locked():
    words = (
        "train --workdir=a --config.data.frames=3 --config=mafw:2,compound --config.optim.beta2 0.5"
    )
    call = cli.parse(
        [*words.split(), "--config.augment.std=(1.0, 2.0, 3.0)", "--noconfig.key.enabled"]
    )
    config = call.flags.config
    assert (config.data.frames, config.optim.beta2) == (3, 0.5)
    assert (config.data.test_split, config.data.variant) == ("fold2", "compound")
    assert config.augment.std == (1.0, 2.0, 3.0) and config.key.enabled is False
    with pytest.raises(AttributeError):
        config.data.other = 3


@pytest.mark.parametrize("name", ["dfew", "ferv39k", "mafw", "video_folder"])
@pytest.mark.parametrize(
    ("word", "value"),
    [("3", 3), ("1", 1), ("0", 0), ("True", True), ("true", True), ("False", 0), ("no", 0)],
)
def test_a_number_of_missing_clips_is_a_number(name, word, value):
    flag = f"--config.build.allow_missing={word}"
    build = cli.parse(["build", f"--config={name}", flag]).flags.config.build
    assert build.allow_missing == value and (build.allow_missing is True) == (value is True)


def test_a_configuration_of_ones_own(tmp_path):
    path = tmp_path / "my.py"
    path.write_text(
        "from rdfer_jax import config_files\nget_config = lambda: config_files.load('dfew')\n"
    )
    assert config_files.load(str(path)).data.name == "dfew"
    path.write_text("")
    with pytest.raises(ValueError, match=r"my\.py does not define get_config\(\)"):
        config_files.load(str(path))


def test_errors_of_the_command_line_have_no_stack_trace(capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["trian"])
    assert str(end.value.code).startswith("error: unknown command 'trian'")
    main.main(["--version"])
    assert capsys.readouterr().out == f"rdfer_jax {rdfer_jax.__version__}\n"


def test_the_package_offers_the_predictor_and_the_search_for_label_issues():
    from rdfer_jax.labels import issues
    from rdfer_jax.predict import predictor

    assert rdfer_jax.Predictor is predictor.Predictor
    assert rdfer_jax.find_label_issues is issues.find_label_issues
    assert {"Predictor", "find_label_issues", "__version__"} <= set(dir(rdfer_jax))
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        rdfer_jax.Predicter  # noqa: B018


def test_importing_the_package_imports_nothing_else():
    script = "import sys, rdfer_jax; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"jax", "numpy", "tensorflow_datasets"} & set(done.stdout.split())


class Reader:
    """Stands in for a data reader, whose shared memory must be released before Python ends."""


ENDS = {
    "SIGTERM": (lambda: PreemptedError("stopped", 0), 0),
    "Ctrl-C in training": (lambda: PreemptedError("stopped", 130), 130),
    "Ctrl-C": (KeyboardInterrupt, 130),
    "user error": (lambda: ValueError("no such split"), "error: no such split"),
    "worker killed": (
        lambda: OSError("Worker process was terminated"),
        "error: a data worker process was",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_data_readers_are_gone_before_the_program_ends(monkeypatch, name):
    create, code = ENDS[name]
    readers = []

    def command(_):
        reader = Reader()
        readers.append(weakref.ref(reader))
        raise create()

    monkeypatch.setitem(commands.COMMANDS, "train", command)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # it would take pytest's handlers
    with pytest.raises(SystemExit) as end:
        commands.run(cli.Call("train", types.SimpleNamespace()))
    assert readers[0]() is None
    assert str(end.value.code).startswith(str(code))


@pytest.mark.parametrize(
    "words",
    [
        *("check --config=dfew", "predict --input=a", "audit --workdir=a", "report --workdir=a"),
        *("inject --config=dfew", "relabel --workdir=a", "export", "live --input=a"),
    ],
)
def test_results_that_cannot_be_written_are_told_before_any_work(tmp_path, monkeypatch, words):
    command = words.split()[0]
    monkeypatch.setitem(commands.COMMANDS, command, pytest.fail)
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "a" / "b"
    with pytest.raises(SystemExit) as stopped:
        commands.run(cli.parse([*words.split(), f"--output={output}"]))
    told = f"error: --output={output}: {tmp_path}/file is a file; choose another place"
    assert stopped.value.code == told
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SystemExit, match="cannot be written to; choose another place"):
        commands.run(cli.parse([*words.split(), f"--output={tmp_path}/new/x"]))
    done = []
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    monkeypatch.setitem(commands.COMMANDS, command, done.append)
    commands.run(cli.parse([*words.split(), f"--output={tmp_path}/new/x"]))
    assert len(done) == 1 and not (tmp_path / "new").exists()
