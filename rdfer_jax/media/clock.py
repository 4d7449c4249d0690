"""When each frame of a video is shown: time stamps as they are in files, turned into times that rise."""

import math

#: A frame that comes late follows the one before after this share of a step.
_LATE = 1 / 8


class Clock:
    """Turns the stamps of successive frames into seconds from the first frame, which rise.

    Frames without a stamp, or with that of the frame before, follow at the frame rate, or halfway to the
    next frame if that is sooner. A single frame from the past, as after damage, is squeezed in. If a second
    one follows, the clock of the file was reset, and time goes on from there. A jump forward stays.
    """

    def __init__(self, fps: float):
        """Starts the clock; fps is the frame rate where stamps say nothing."""
        self._step = 1 / fps
        self._time, self._start = -self._step, math.nan
        self._highest = self._last = -math.inf
        self._is_behind = False

    def __call__(self, stamp: float | None, following: float | None = None) -> float:
        """Returns the time of the next frame.

        Args:
          stamp: of the frame, seconds; None if it has none.
          following: the stamp of the frame after it, if that is known.
        """
        if stamp is None or stamp == self._last:
            rest = math.inf if following is None else following - self._start - self._time
            self._time += min(self._step, rest / 2) if rest > 0 else self._step
            return self._time
        self._last = stamp
        goes_on = stamp > self._highest
        was_reset = math.isnan(self._start) or (self._is_behind and not goes_on)
        if was_reset:
            self._start = stamp - (self._time + self._step)
        if goes_on or was_reset:
            self._highest = stamp
        self._is_behind = not (goes_on or was_reset)
        time = stamp - self._start
        self._time = time if time > self._time else self._time + _LATE * self._step
        return self._time
