// Probabilities over time as stacked areas: each class in its color, which is that of timeline.png.
const GAP = 0.6; // frames further apart are not joined, seconds

export class Chart {
  constructor(canvas) {
    this.canvas = canvas;
    this.pattern = null;
  }

  // Draws frames {time, probs, status} of the time from `start` to `end`, seconds.
  draw(frames, colors, start, end) {
    const { canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio);
    const height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    const low = height - 20 * ratio;
    const x = (time) => ((time - start) / (end - start)) * width;
    context.clearRect(0, 0, width, height);
    const shown = frames.filter((frame) => frame.time >= start - 1 && frame.time <= end + 1);
    this.hatch(context, shown, x, low, style);
    for (const run of runs(shown, (frame) => frame.probs)) areas(context, run, colors, x, low, style);
    this.axis(context, start, end, x, low, ratio, style);
  }

  hatch(context, frames, x, low, style) {
    context.fillStyle = this.stripes(context, style.getPropertyValue("--control"));
    for (const run of runs(frames, (frame) => frame.status === "absent")) {
      const [left, right] = edges(run);
      context.fillRect(x(left), 0, x(right) - x(left), low);
    }
  }

  stripes(context, color) {
    if (this.pattern?.color === color) return this.pattern.fill;
    const tile = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
    const lines = tile.getContext("2d");
    lines.strokeStyle = color;
    lines.globalAlpha = 0.6;
    for (const shift of [-8, 0, 8]) {
      lines.moveTo(shift, 8);
      lines.lineTo(shift + 8, 0);
    }
    lines.stroke();
    this.pattern = { color, fill: context.createPattern(tile, "repeat") };
    return this.pattern.fill;
  }

  axis(context, start, end, x, low, ratio, style) {
    context.fillStyle = context.strokeStyle = style.color;
    context.font = `${12 * ratio}px ${style.fontFamily}`;
    context.globalAlpha = 0.25;
    context.fillRect(0, low, context.canvas.width, ratio);
    context.globalAlpha = 1;
    const step = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800].find((s) => (end - start) / s <= 8) ?? 3600;
    for (let time = Math.max(0, Math.ceil(start / step) * step); time <= end; time += step) {
      const text = clock(time);
      const half = context.measureText(text).width / 2;
      const place = Math.min(Math.max(x(time), half), context.canvas.width - half);
      context.fillRect(x(time), low, ratio, 4 * ratio);
      context.fillText(text, place - half, low + 16 * ratio);
    }
  }
}

export function clock(time) {
  const seconds = Math.floor(time);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

function areas(context, run, colors, x, low, style) {
  const [left, right] = edges(run);
  const places = [left, ...run.map((frame) => frame.time), right];
  const rows = [run[0], ...run, run.at(-1)].map((frame) => frame.probs);
  const below = new Float64Array(rows.length);
  const surface = style.getPropertyValue("--surface");
  colors.forEach((color, n) => {
    const above = rows.map((probs, i) => below[i] + probs[n]);
    context.beginPath();
    places.forEach((time, i) => context.lineTo(x(time), low * (1 - below[i])));
    for (let i = places.length - 1; i >= 0; i--) context.lineTo(x(places[i]), low * (1 - above[i]));
    context.closePath();
    context.fillStyle = color;
    context.fill();
    context.strokeStyle = surface;
    context.stroke();
    below.set(above);
  });
}

// Returns runs of frames for which a condition holds, without gaps in time.
function runs(frames, condition) {
  const result = [];
  let before = null;
  for (const frame of frames) {
    if (condition(frame)) {
      if (before && frame.time - before.time <= GAP) result.at(-1).push(frame);
      else result.push([frame]);
    }
    before = condition(frame) ? frame : null;
  }
  return result;
}

// Returns the times at which a run starts and ends: half a step before and after.
function edges(run) {
  const length = run.at(-1).time - run[0].time;
  const half = Math.min(run.length > 1 ? length / (run.length - 1) / 2 : 0.05, 0.25);
  return [run[0].time - half, run.at(-1).time + half];
}
