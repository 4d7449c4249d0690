"""Everything that the documentation promises for a GPU, measured by one command in ten minutes.

    python -m benchmarks.all_gpu --output=runs/all_gpu
    python -m benchmarks.all_gpu --tiny --output=runs/trial     # on a CPU, to see that everything runs

Runs the benchmarks below one after the other, each as a process with a time limit, and writes all.md and
all.json. Those that compare with PyTorch leave it out if it is not installed. For an H100 or an H200;
smaller GPUs need smaller batches.
"""

from benchmarks import suite
from benchmarks.suite import Part

#: PyTorch needs memory beside JAX in the same process.
_SHARED = {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".45"}
STEP_OUTPUT = "--output={output}/step.json"
TINY_STEP = ("--frames=8", "--size=32", "--batch=2", "--rounds=1", STEP_OUTPUT)
TINY_VIDEOMAE = ("--family=videomae", "--set=model.trunk=videovit_narrow", *TINY_STEP)
_RUN = (
    "--set=model.trunk=resnet18", "--set=data.image_size=128", "--set=augment.size=112",
    "--set=data.frames=16", "--set=data.batch_size=128", "--set=data.num_workers=8",
    "--set=build.image_size=128", "--set=build.num_train=2048", "--set=build.num_test=64",
    "--steps=60", "--output={output}",
)  # fmt: skip
_TINY_RUN = (
    "--set=build.num_train=64", "--set=build.num_test=16", "--set=build.num_frames=8",
    "--set=data.batch_size=8", "--set=data.frames=4", "--set=clips.frames=4", "--set=key.frames=2",
    "--steps=6", "--output={output}",
)  # fmt: skip

TRAINING = Part(
    "A training run: speed, wait for data, memory, resumed bit for bit",
    "training_run",
    _RUN,
    _TINY_RUN,
    100,
)
EXPORTED = Part(
    "Exported networks",
    "exported",
    ("--config=configs/dfew.py", "--batch=32"),
    ("--batch=1", "--repeats=1"),
    40,
)

PARTS = (
    Part(
        "Step of the default network and of M3DFEL, beside PyTorch",
        "step",
        ("--frames=16", "--batch=128", "--rounds=10", STEP_OUTPUT),
        TINY_STEP,
        130,
        _SHARED,
    ),
    Part(
        "Step of VideoMAE-B, beside PyTorch",
        "step",
        ("--family=videomae", "--frames=16", "--batch=32", "--rounds=10", STEP_OUTPUT),
        TINY_VIDEOMAE,
        100,
        _SHARED,
    ),
    TRAINING._replace(environment={"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}),
    TRAINING._replace(title="The same without deterministic operations", seconds=70),
    EXPORTED,
    Part(
        "Step with the channels of convolutions last",
        "step",
        ("--frames=16", "--batch=128", "--rounds=5", STEP_OUTPUT),
        TINY_STEP,
        90,
        {**_SHARED, "XLA_FLAGS": "--xla_gpu_force_conv_nhwc=true"},
    ),
    Part(
        "Prediction of a minute of 1080p",
        "predict",
        ("--minutes=1", "--output={output}"),
        ("--minutes=0.05", "--output={output}"),
        70,
    ),
)

if __name__ == "__main__":
    suite.start("gpu", PARTS)
