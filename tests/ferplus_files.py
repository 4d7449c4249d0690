"""Files of FER2013 and FER+ in the published form, generated."""

import csv
import gzip

import numpy as np

COLUMNS = [
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"),
    *("contempt", "unknown", "NF"),
]
USAGES = ("Training", "PublicTest", "PrivateTest")
#: Class of each voted column, and of each number of FER2013.
CLASS = dict(
    zip(COLUMNS, ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear"), strict=False)
)
NUMBERS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def make_rows(seed=0, per_usage=40):
    """Returns rows (emotion, pixels, usage, votes) with all kinds of majorities."""
    rng = np.random.default_rng(seed)
    rows = []
    for usage in USAGES:
        for i in range(per_usage):
            chances = rng.dirichlet(np.full(10, 0.3))
            chances = 0.3 * chances + 0.7 * np.eye(10)[i % 10]
            low, high = sorted(rng.integers(0, 256, 2).tolist())
            picture = np.linspace(low, high, 48 * 48).astype(int)
            rows.append(
                [
                    int(rng.integers(7)),
                    picture.tolist(),
                    usage,
                    rng.multinomial(10, chances).tolist(),
                ]
            )
    return rows


def write(root, rows, gzipped=False, header="emotion,pixels,Usage"):
    root.mkdir(parents=True, exist_ok=True)
    lines = [header]
    lines += [
        f"{emotion},{' '.join(map(str, pixels))},{usage}" for emotion, pixels, usage, _ in rows
    ]
    text = "\n".join(lines) + "\n"
    if gzipped:
        (root / "fer2013.csv.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (root / "fer2013.csv").write_text(text)
    with (root / "fer2013new.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Usage", "Image name", *COLUMNS])
        for number, (_, _, usage, votes) in enumerate(rows):
            writer.writerow([usage, f"fer{number:07d}.png", *votes])
    return root
