"""Drawn faces, alone and in a scene."""

import numpy as np

from data.synthetic_faces import clips
from data.synthetic_faces.parameters import Parameters
from rdfer_jax.faces.boxes import Box


def in_scene(face, at=(20, 60), size=(240, 320)):
    """A drawn face in a gray picture; returns it and where the face is."""
    scene = np.full((*size, 3), 120, np.uint8)
    scene[at[0] : at[0] + len(face), at[1] : at[1] + len(face)] = face
    return scene, Box(at[1], at[0], len(face), len(face))


def drawn(index, image_size=160):
    drawing = Parameters(image_size=image_size, num_frames=16, hard_share=0.0)
    return clips.render_clip(drawing, "test", index).frames[8]
