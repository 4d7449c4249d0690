"""One rule for all paths: ~ is the home folder in every flag and every setting that is a path."""

import dataclasses
import pathlib

import pytest
from etils import epath

from data import builder, raw
from data.video_folder import video_folder_dataset_builder as video_folder
from rdfer_jax import cli, config, paths
from rdfer_jax.media.files import MediaError
from rdfer_jax.predict import live

#: Settings whose text says that they are a folder or a file, without those of `build`.
SETTINGS = (
    "data.dir", "data.labels", "data.frame_cache", "predict.yunet", "predict.class_shares", "init_from",
    "compile_cache",
)  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("path", "full"),
    [
        ("~", "{home}"), ("~/a/b", "{home}/a/b"), ("", ""), ("a/b", "a/b"), ("/a/~", "/a/~"),
        ("./~", "./~"), ("~root/a", "/root/a"), ("gs://~/a", "gs://~/a"), ("a/~/b", "a/~/b"),
    ],
)  # fmt: skip
def test_only_a_leading_tilde_is_the_home_folder(home, path, full):
    full = full.format(home=home)
    if path.startswith("~root"):
        full = str(pathlib.Path("~root").expanduser()) + "/a"
    assert paths.expand(path) == full


def test_an_unknown_home_folder_is_refused():
    with pytest.raises(ValueError, match=r"~nobody-here is no home folder .* is \./~nobody-here/a"):
        paths.expand("~nobody-here/a")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://example.com/a", "an address on the network; download the file and give its path"),
        ("rtsp://camera/1", "an address on the network"),
        ("file:///tmp/a", "write the path without file://"),
    ],
)
def test_an_address_is_no_path(address, message):
    with pytest.raises(ValueError, match=f"^{address}: {message}"):
        paths.expand(address)
    for flag in ("workdir", "output", "input"):
        others = [] if flag == "input" else ["--input=a"]
        with pytest.raises(ValueError, match=message) as error:
            cli.parse(["predict", *others, f"--{flag}={address}"])
        assert flag in str(error.value) and "\n" not in str(error.value)
    call = cli.parse(["train", "--config=dfew", "--workdir=a", f"--config.data.dir={address}"])
    with pytest.raises(ValueError, match=rf"config\.data\.dir: {address}: {message}"):
        config.resolve(call.flags.config)


def test_live_looks_for_a_file_in_the_home_folder(home):
    with pytest.raises(MediaError, match=f"{home}/film.mp4"):
        live.run(None, "~/film.mp4")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_flag_that_is_a_path(home, name):
    command = cli.COMMANDS[name]
    values = {str: "1", cli.Path: "~/x", int: "1", float: "1"}
    words = [
        f"--{flag.name}={'synthetic' if flag.name == 'config' else values[flag.kind]}"
        for flag in command.flags
        if flag.kind is not bool
    ]
    call = cli.parse([name, *words])
    found = {flag.name for flag in command.flags if getattr(call.flags, flag.name) == f"{home}/x"}
    places = {"workdir", "input", "output", "compile_cache", "reviewed"}
    places |= {"dir", "web", "onnxruntime"}
    if name == "live":  # a camera or an address, too: media.sources expands what is neither
        places.remove("input")
    assert found == {f.name for f in command.flags} & places


def test_the_configuration_itself(home, tmp_path):
    (tmp_path / "my.py").write_text(
        "from rdfer_jax import config_files\nget_config = lambda: config_files.load('dfew')\n"
    )
    call = cli.parse(["build", "--config=~/my.py"])
    assert call.flags.config.data.name == "dfew"


def test_every_setting_that_is_a_path(home):
    words = [f"--config.{name}=~/x" for name in SETTINGS]
    call = cli.parse(["train", "--config=dfew", "--workdir=a", *words])
    tree = config.to_dict(config.resolve(call.flags.config))
    for name in SETTINGS:
        section, _, key = name.rpartition(".")
        assert (tree[section][key] if section else tree[key]) == f"{home}/x", name
    declared = {
        f"{s}.{f.name}": f for s, k in config.SECTIONS.items() for f in dataclasses.fields(k)
    }
    declared |= {f.name: f for f in dataclasses.fields(config.Config)}
    assert {n for n, f in declared.items() if f.metadata.get("path")} == set(SETTINGS)
    with pytest.raises(ValueError, match=r"config\.data\.dir: ~nobody-here/x: "):
        config.resolve({"data": {"dir": "~nobody-here/x"}})


def test_the_builders_read_the_same_rule(home, tmp_path):
    (tmp_path / "mine").mkdir()
    options = builder.make_config("video_folder", options={"source_dir": "~/mine"})
    assert options.source_dir == f"{home}/mine"
    assert video_folder.Options(name="x", source_dir="mine").source_dir == "mine"


def test_the_folder_of_frames_may_be_given_in_full(home, tmp_path):
    (tmp_path / "dfew/clips/1").mkdir(parents=True)
    root = epath.Path(tmp_path / "dfew")
    for wanted in ("clips", f"{home}/dfew/clips", "~/dfew/clips"):
        assert raw.clips_folder(root, wanted, ()) == root / "clips"
    with pytest.raises(ValueError, match=r"frames_dir: path .* must be relative and stay inside"):
        raw.clips_folder(root, "~/elsewhere", ())
