"""Updates README.md and its pictures from one run, so that their numbers agree.

    python docs/update_readme.py --run=runs/demo

Copies results.json of the run to docs/results/demo.json and its pictures to docs/images/, then rewrites the
block between the demo markers of README.md. Without --run, it only rewrites the block from the stored file.
"""

import argparse
import json
import pathlib
import shutil
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "demo.json"
START, END = "<!-- demo: written by docs/update_readme.py -->\n", "<!-- /demo -->"
#: Picture in docs/images/ -> file of the run.
PICTURES = {"agreement.png": "agreement.png", "timeline.png": "predict/film.mp4/timeline.png"}


def block(results: dict[str, Any]) -> str:
    """Returns the Markdown table of a run's results."""
    recalls = ", ".join(f"{name} {r:.0%}" for name, r in results["recall_per_class"].items())
    rows = {
        "clips in the test split": f"{results['num_examples']:,}",
        "accuracy (WAR)": f"**{results['war']:.1%}**",
        "accuracy on easy and on hard clips": f"{results['war_easy']:.1%}, {results['war_hard']:.1%}",
        "recall of each class": recalls,
        "mislabeled training clips found, AUROC": (
            f"{results['noise_auroc_agreement']:.3f} by agreement, "
            f"{results['noise_auroc_loss']:.3f} by loss"
        ),
        "the same, among mislabeled and hard clips only": (
            f"{results['noise_auroc_agreement_among_hard']:.3f} by agreement, "
            f"{results['noise_auroc_loss_among_hard']:.3f} by loss"
        ),
        "expected calibration error, before and after the temperature": (
            f"{results['ece']:.3f}, {results['ece_calibrated']:.3f}"
        ),
        "key frames inside the true key segment": (
            f"{results['key_frames_inside']:.1%} (by chance {results['key_frames_inside_by_chance']:.1%})"
        ),
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([f"| `make demo`, step {results['step']} | |", "|---|---|", *lines]) + "\n"


def updated(readme: str, results: dict[str, Any]) -> str:
    """Returns the README with the block of these results.

    Raises:
      ValueError: a marker is missing.
    """
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"README.md needs the markers {START.strip()} and {END}")
    return before + start + block(results) + end + after


def main() -> None:
    """Updates the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=pathlib.Path, help="folder of the demo's run")
    run = parser.parse_args().run
    if run:
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        for name, source in PICTURES.items():
            shutil.copyfile(run / source, ROOT / "docs" / "images" / name)
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    readme = ROOT / "README.md"
    readme.write_text(updated(readme.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
