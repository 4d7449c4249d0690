"""Drawn faces, alone and in a scene."""

import functools

import numpy as np
from etils import epath

from data.synthetic_faces import clips
from data.synthetic_faces.parameters import Parameters
from rdfer_jax.faces.boxes import Box
from rdfer_jax.media.video import VideoWriter


def in_scene(face, at=(20, 60), size=(240, 320)):
    """A drawn face in a gray picture; returns it and where the face is."""
    scene = np.full((*size, 3), 120, np.uint8)
    scene[at[0] : at[0] + len(face), at[1] : at[1] + len(face)] = face
    return scene, Box(at[1], at[0], len(face), len(face))


def write_video(path, frames, fps=25):
    """Writes frames, uint8 [T, H, W, 3] in RGB, as a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(epath.Path(path), fps, frames[0].shape[:2]) as writer:
        for frame in frames:
            writer.write(frame)


@functools.cache
def drawn(index, image_size=160):
    drawing = Parameters(image_size=image_size, num_frames=16, hard_share=0.0)
    return clips.render_clip(drawing, "test", index).frames[8]
