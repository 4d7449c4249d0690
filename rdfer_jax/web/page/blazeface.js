// The face detector, as faces/blazeface.py runs it. Its constants come from there, in settings.json.
import { halvings, networkInput, powerOfTwo } from "./pixels.js";

const MOST = 8; // squares in one run of the network

export class BlazeFace {
  // `run` takes float32 [n, 3, size, size] and returns {regressors, classificators}.
  constructor(run, constants, minFace) {
    this.run = run;
    this.constants = constants;
    this.minFace = minFace;
    this.anchors = anchors(constants);
  }

  // Returns the faces in a frame: around the boxes `near`, or anywhere; `small` ones only if asked for.
  async find(frame, near, small) {
    const { first_score, score, same } = this.constants;
    const least = this.minFace * Math.min(frame.width, frame.height);
    if (!near.length) {
      const squares = searchSquares(frame, least, this.constants);
      const found = await this.look(frame, small ? squares : squares.slice(0, 1), first_score);
      near = found.map((face) => face.box);
    }
    const found = await this.look(frame, near.map((box) => this.around(box)), score);
    const best = near.map((box) => bestOverlap(found, box, same)).filter((face) => face);
    return [...new Set(best)].filter(({ box }) => Math.min(box.width, box.height) >= least);
  }

  around(box) {
    const { around, grid } = this.constants;
    const least = around * Math.max(box.width, box.height);
    const step = powerOfTwo(least / grid);
    const side = Math.max(1, Math.ceil(least / (2 * step)) * 2 * step);
    const left = Math.round((box.left + (box.width - side) / 2) / step) * step;
    const top = Math.round((box.top + (box.height - side) / 2) / step) * step;
    return { left, top, side };
  }

  async look(frame, squares, least) {
    const size = this.constants.input;
    const rows = [];
    for (let first = 0; first < squares.length; first += MOST) {
      const part = squares.slice(first, first + MOST).map((square) => snapped(square, size));
      const input = new Float32Array(part.length * 3 * size * size);
      part.forEach((square, i) => networkInput(frame, square, size, input, i * 3 * size * size));
      const { regressors, classificators } = await this.run(input, part.length);
      part.forEach((square, i) => {
        const count = this.anchors.length;
        const numbers = regressors.subarray(i * count * 16, (i + 1) * count * 16);
        const logits = classificators.subarray(i * count, (i + 1) * count);
        rows.push(...decode(numbers, logits, square, least, this.anchors, size));
      });
    }
    return merge(rows, this.constants.same).map((row) => this.detection(row));
  }

  detection({ left, top, width, height, points }) {
    return { box: { left, top: top - this.constants.raised * height, width, height }, points };
  }
}

export function anchors({ input, anchors }) {
  const centers = [];
  for (const [stride, number] of anchors) {
    for (let y = 0; y < input / stride; y++) {
      for (let x = 0; x < input / stride; x++) {
        const center = [((x + 0.5) * stride) / input, ((y + 0.5) * stride) / input];
        for (let i = 0; i < number; i++) centers.push(center);
      }
    }
  }
  return centers;
}

// Returns boxes and key points in pixels of the frame for each anchor with a score above `least`.
export function decode(numbers, logits, square, least, centers, size) {
  const rows = [];
  centers.forEach(([x, y], i) => {
    const score = 1 / (1 + Math.exp(-Math.min(Math.max(logits[i], -80), 80)));
    const values = numbers.subarray(16 * i, 16 * i + 16);
    if (!(score > least && values[2] > 0 && values[3] > 0)) return;
    const place = (dx, dy) => [
      square.left + square.side * (x + dx / size),
      square.top + square.side * (y + dy / size),
    ];
    const width = (square.side * values[2]) / size;
    const height = (square.side * values[3]) / size;
    const [cx, cy] = place(values[0], values[1]);
    const points = [];
    for (let k = 4; k < 16; k += 2) points.push(place(values[k], values[k + 1]));
    rows.push({ left: cx - width / 2, top: cy - height / 2, width, height, points, score });
  });
  return rows;
}

// Averages detections of the same face, weighted by their scores; the best one's face first.
export function merge(rows, same) {
  const faces = [];
  let rest = [...rows].sort((a, b) => b.score - a.score);
  while (rest.length) {
    const near = rest.filter((row) => overlap(row, rest[0]) > same);
    rest = rest.filter((row) => !near.includes(row));
    const total = near.reduce((sum, row) => sum + row.score, 0);
    const mean = (value) => near.reduce((sum, row) => sum + row.score * value(row), 0) / total;
    faces.push({
      left: mean((row) => row.left),
      top: mean((row) => row.top),
      width: mean((row) => row.width),
      height: mean((row) => row.height),
      points: near[0].points.map((_, i) => [0, 1].map((axis) => mean((row) => row.points[i][axis]))),
    });
  }
  return faces;
}

// Returns the squares in which to search a frame for faces of `least` pixels or more.
export function searchSquares({ width, height }, least, { smallest, step }) {
  let side = Math.max(width, height);
  const corner = (length) => Math.floor((length - side) / 2);
  const squares = [{ left: corner(width), top: corner(height), side }];
  const last = Math.max(1, Math.floor(least / smallest));
  while (side > last) {
    const shared = smallest * side;
    side = Math.max(last, Math.ceil(step * side));
    for (const top of starts(height, side, shared)) {
      for (const left of starts(width, side, shared)) squares.push({ left, top, side });
    }
  }
  return squares;
}

// Returns a square that, if it is large, is a little larger, as the Python code looks at it.
export function snapped(square, size) {
  const step = halvings(square.side, size);
  const [left, top] = [square.left, square.top].map((place) => Math.floor(place / step) * step);
  const reach = square.side + Math.max(square.left - left, square.top - top);
  const grown = { left, top, side: Math.ceil(reach / step) * step };
  return halvings(grown.side, size) === step ? grown : snapped(grown, size);
}

function starts(length, side, shared) {
  if (side >= length) return [Math.floor((length - side) / 2)];
  const count = Math.max(2, Math.ceil((length - shared) / (side - shared) - 1e-9));
  return Array.from({ length: count }, (_, i) => Math.round(((length - side) * i) / (count - 1)));
}

export function overlap(one, two) {
  const side = (start, size) =>
    Math.min(one[start] + one[size], two[start] + two[size]) - Math.max(one[start], two[start]);
  const width = side("left", "width");
  const height = side("top", "height");
  if (width <= 0 || height <= 0) return 0;
  const shared = width * height;
  return shared / (one.width * one.height + two.width * two.height - shared);
}

export function bestOverlap(faces, box, least) {
  let best = null;
  for (const face of faces) {
    if (!best || overlap(face.box, box) > overlap(best.box, box)) best = face;
  }
  return best && overlap(best.box, box) >= least ? best : null;
}
