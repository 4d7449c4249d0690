"""Everything that the documentation promises for a TPU, measured by one command in ten minutes.

    python -m benchmarks.all_tpu --output=runs/all_tpu
    python -m benchmarks.all_tpu --tiny --output=runs/trial     # on a CPU, to see that everything runs

For one host, such as a v5e with eight chips; the steps are measured on one chip, the training run on all.
Runs the benchmarks below one after the other, each as a process with a time limit, and writes all.md and
all.json.
"""

from benchmarks import suite
from benchmarks.all_gpu import EXPORTED, STEP_OUTPUT, TINY_STEP, TINY_VIDEOMAE, TRAINING
from benchmarks.suite import Part

PARTS = (
    Part(
        "Step of the default network and of M3DFEL",
        "step",
        ("--frames=16", "--batch=64", "--rounds=10", STEP_OUTPUT),
        TINY_STEP,
        200,
    ),
    Part(
        "Step of VideoMAE-B",
        "step",
        ("--family=videomae", "--frames=16", "--batch=16", "--rounds=10", STEP_OUTPUT),
        TINY_VIDEOMAE,
        130,
    ),
    TRAINING._replace(seconds=180),
    EXPORTED._replace(seconds=90),
)

if __name__ == "__main__":
    suite.start("tpu", PARTS)
