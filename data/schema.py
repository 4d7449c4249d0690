"""The record format of every data set, as the builders write it and the pipeline reads it.

A record is one video clip:

| key      | type                      | meaning                                                  |
|----------|---------------------------|----------------------------------------------------------|
| clip_id  | str                       | unique name of the clip within the data set              |
| frames   | list of bytes             | every frame, in time order, as a JPEG                    |
| label    | int                       | the given label, which may be wrong; index of a class    |
| votes    | float32 [N]               | annotators' votes per class; all zero if unknown         |

Data sets in which clips belong together, such as those of one person, add:

| key         | type  | meaning                                                          |
|-------------|-------|------------------------------------------------------------------|
| group       | str   | clips with the same one stay in one fold; empty for a clip alone |

Data sets with known truth (synthetic_faces) add:

| key         | type  | meaning                                                          |
|-------------|-------|------------------------------------------------------------------|
| true_label  | int   | the label before it was flipped                                  |
| is_flipped  | bool  | label != true_label                                              |
| is_hard     | bool  | the key expression is short and weak, and another one interferes |
| key_start   | int32 | first frame of the key expression                                |
| key_end     | int32 | one past the last frame of the key expression                    |
"""

from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

#: The seven classes of DFEW and FERV39k, in DFEW's order.
DFEW_CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")


def features(
    classes: Sequence[str], *, with_truth: bool = False, with_groups: bool = False
) -> tfds.features.FeaturesDict:
    """Returns the TFDS features of the record.

    Frames are `Sequence(Text)`, not `Sequence(Image)`: their bytes are stored unchanged, writing them
    needs no TensorFlow, and a reader decodes only the frames that it samples.

    Args:
      classes: names of the N classes, in the order of their index.
      with_truth: whether the truth about each clip is known.
      with_groups: whether clips belong together.
    """
    label = tfds.features.ClassLabel(names=list(classes))
    record = {
        "clip_id": tfds.features.Text(),
        "frames": tfds.features.Sequence(tfds.features.Text()),
        "label": label,
        "votes": tfds.features.Tensor(shape=(len(classes),), dtype=np.float32),
    }
    if with_groups:
        record["group"] = tfds.features.Text()
    if with_truth:
        record |= {
            "true_label": tfds.features.ClassLabel(names=list(classes)),
            "is_flipped": tfds.features.Scalar(dtype=np.bool_),
            "is_hard": tfds.features.Scalar(dtype=np.bool_),
            "key_start": tfds.features.Scalar(dtype=np.int32),
            "key_end": tfds.features.Scalar(dtype=np.int32),
        }
    return tfds.features.FeaturesDict(record)
