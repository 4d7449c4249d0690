"""The probabilities of a face over time: those of the windows, and those of single instants.

Letters: A analyzed frames of the video, I instants, N classes.
"""

import numpy as np

from rdfer_jax.faces.tracks import runs_of_true


class TimeCourse:
    """Collects predictions, and gives the probabilities in each analyzed frame.

    They are a mean of two: of the windows that contain the frame, and of the instants of those windows,
    linearly interpolated in time. A window says what the seconds around the frame show, an instant what
    the frame alone shows. Networks that classify no instants have windows only.
    """

    def __init__(self, times_A: np.ndarray, num_classes: int, instants: float = 0.5):
        """Takes the times of the analyzed frames, seconds, ascending, and the weight of the instants."""
        self._times_A, self._weight = times_A, instants
        self._windows_AN = np.zeros((len(times_A), num_classes))
        self._instants_AN = np.zeros((len(times_A), num_classes))
        self._windows_A, self._instants_A = np.zeros(len(times_A)), np.zeros(len(times_A))

    def add_window(self, places: np.ndarray, probs_N: np.ndarray) -> None:
        """Adds the prediction of a window, which contains the analyzed frames `places`."""
        self._windows_AN[places] += probs_N
        self._windows_A[places] += 1

    def add_instants(
        self, places: np.ndarray, instants_I: np.ndarray, probs_IN: np.ndarray
    ) -> None:
        """Adds the instants of a window: the indices of their analyzed frames, and their predictions."""
        known, which = np.unique(instants_I, return_inverse=True)
        count = np.bincount(which)
        for n, probs_I in enumerate(probs_IN.T):
            mean = np.bincount(which, probs_I) / count
            self._instants_AN[places, n] += np.interp(
                self._times_A[places], self._times_A[known], mean
            )
        self._instants_A[places] += 1

    def probs(self, smooth: float) -> np.ndarray:
        """Returns float [A, N]; NaN in frames that no window contains.

        Args:
          smooth: each frame gets the mean over the frames at most half of this from it, in seconds, without
            a gap between them; 0 for no smoothing.
        """
        seen_A = self._windows_A > 0
        probs_AN = self._windows_AN / np.maximum(self._windows_A, 1)[:, None]
        instants_AN = self._instants_AN / np.maximum(self._instants_A, 1)[:, None]
        both_A = self._instants_A > 0
        probs_AN[both_A] += self._weight * (instants_AN[both_A] - probs_AN[both_A])
        probs_AN[~seen_A] = np.nan
        result_AN = probs_AN.copy()
        for run in runs_of_true(seen_A):
            times = self._times_A[run]
            first = np.searchsorted(times, times - smooth / 2 - 1e-6)
            last = np.searchsorted(times, times + smooth / 2 + 1e-6)
            total = np.concatenate([np.zeros((1, probs_AN.shape[1])), probs_AN[run].cumsum(axis=0)])
            result_AN[run] = (total[last] - total[first]) / (last - first)[:, None]
        return result_AN
