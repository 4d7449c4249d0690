// Windows of frames for the network, and what it says of them over time, as predict/predictor.py and
// predict/timecourse.py do it.
const ROUNDING = 1e-6; // seconds

// Cuts runs of frames with the face into windows. Frames are {place, time, crop}.
// A file has a window every `stride` seconds, and one that ends with the run; live, the last seconds are a window
// every `stride` seconds, from the first frames on.
export class Planner {
  constructor({ window, least_frames }, stride, isLive) {
    Object.assign(this, { length: window, least: least_frames, stride, isLive });
    this.clear();
  }

  clear() {
    this.run = [];
    this.begin = null;
    this.start = null;
    this.planned = -Infinity;
  }

  // Returns the windows that a frame completes, as lists of frames; live, none while `isBusy`.
  add(frame, isBusy = false) {
    this.run.push(frame);
    this.begin ??= frame.time;
    if (this.isLive) return this.live(frame.time, isBusy);
    this.start ??= frame.time;
    const result = [];
    while (frame.time >= this.start + this.length - ROUNDING) {
      result.push(this.from(this.start));
      this.planned = this.start;
      this.start += this.stride;
      this.run = this.run.filter(({ time }) => time >= Math.min(this.start, frame.time - this.length) - ROUNDING);
    }
    return result.filter((window) => window.length >= this.least);
  }

  live(now, isBusy) {
    this.run = this.run.filter(({ time }) => time >= now - this.length - ROUNDING);
    if (isBusy || this.run.length < this.least || now - this.planned < this.stride - ROUNDING) return [];
    this.planned = now;
    return [[...this.run]];
  }

  // Ends a run of frames; returns its last windows. `isWhole`: the video has no other frames.
  end(isWhole) {
    const { run, begin, planned } = this;
    const windows = [];
    if (run.length && !this.isLive) {
      const start = Math.max(run.at(-1).time - this.length, begin);
      const least = isWhole ? Math.min(this.least, run.length) : this.least;
      const last = this.from(start);
      if (start > planned + ROUNDING && last.length >= least) windows.push(last);
    }
    this.clear();
    return windows;
  }

  from(start) {
    return this.run.filter(
      ({ time }) => time >= start - ROUNDING && time <= start + this.length + ROUNDING,
    );
  }
}

// Returns which of n frames fill the network's buffer, see pipeline/sampling.py.
export function frameIndices(n, frames, snippet, stride) {
  const last = (snippet - 1) * stride;
  const parts = frames / snippet;
  const result = [];
  for (let g = 0; g < parts; g++) {
    const start = Math.floor(((g + 0.5) * n) / parts - 0.5 * last);
    const first = Math.min(Math.max(start, 0), Math.max(n - last - 1, 0));
    for (let i = 0; i < snippet; i++) result.push(Math.min(first + i * stride, n - 1));
  }
  return result;
}

export function softmax(logits, temperature) {
  const highest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp((logit - highest) / temperature));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

// The probabilities in each frame: a mean of the windows that contain it, and of their instants.
export class TimeCourse {
  constructor(classes, weight) {
    this.classes = classes;
    this.weight = weight; // of the instants
    this.frames = []; // {time, windows, windowCount, instants, instantCount}
  }

  // Adds a frame and returns its place.
  add(time) {
    const zeros = () => new Float64Array(this.classes);
    this.frames.push({ time, windows: zeros(), windowCount: 0, instants: zeros(), instantCount: 0 });
    return this.frames.length - 1;
  }

  addWindow(places, probs) {
    for (const place of places) {
      const frame = this.frames[place];
      probs.forEach((p, n) => (frame.windows[n] += p));
      frame.windowCount++;
    }
  }

  // Adds the instants of a window, at places `at` with probabilities `probs`, interpolated in time.
  addInstants(places, at, probs) {
    const known = new Map();
    at.forEach((place, i) => {
      if (!known.has(place)) known.set(place, []);
      known.get(place).push(probs[i]);
    });
    const points = [...known.keys()].sort((a, b) => a - b).map((place) => {
      const rows = known.get(place);
      const mean = rows[0].map((_, n) => rows.reduce((sum, row) => sum + row[n], 0) / rows.length);
      return { time: this.frames[place].time, mean };
    });
    let next = 0;
    for (const place of places) {
      const frame = this.frames[place];
      while (next < points.length && points[next].time < frame.time) next++;
      const after = points[Math.min(next, points.length - 1)];
      const before = points[Math.max(next - 1, 0)];
      const length = after.time - before.time;
      const share = length > 0 ? Math.min(Math.max((frame.time - before.time) / length, 0), 1) : 0;
      for (let n = 0; n < this.classes; n++) {
        frame.instants[n] += before.mean[n] + share * (after.mean[n] - before.mean[n]);
      }
      frame.instantCount++;
    }
  }

  raw(place) {
    const { windows, windowCount, instants, instantCount } = this.frames[place];
    if (!windowCount) return null;
    return Array.from(windows, (sum, n) => {
      const window = sum / windowCount;
      return instantCount ? window + this.weight * (instants[n] / instantCount - window) : window;
    });
  }

  // Returns the probabilities of frames from a place on, null where there are none, each averaged over the frames
  // at most half of `smooth` seconds from it.
  probs(from, smooth) {
    let first = from;
    while (first > 0 && this.frames[from].time - this.frames[first].time <= smooth) first--;
    const raws = this.frames.slice(first).map((_, i) => this.raw(first + i));
    return raws.slice(from - first).map((row, i) => row && this.mean(raws, from - first + i, first, smooth));
  }

  mean(raws, place, first, smooth) {
    const near = (other) =>
      raws[other] &&
      Math.abs(this.frames[first + other].time - this.frames[first + place].time) <= smooth / 2 + ROUNDING;
    let start = place;
    while (start > 0 && near(start - 1)) start--;
    let end = place + 1;
    while (end < raws.length && near(end)) end++;
    const rows = raws.slice(start, end);
    return rows[0].map((_, n) => rows.reduce((sum, row) => sum + row[n], 0) / rows.length);
  }
}
