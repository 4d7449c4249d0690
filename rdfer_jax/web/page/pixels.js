// Pixels of a frame: what the detector sees, and the face cut out, as faces/blazeface.py and faces/cut.py do it.
// A frame is {data, width, height} with RGBA bytes; a square is {left, top, side} in pixels.

// Writes a square of a frame as float32 [3, size, size] in [-1, 1] to `out` at `at`; black beyond the border.
export function networkInput(frame, square, size, out, at) {
  const columns = weights(square.left, square.side, size, frame.width);
  const rows = weights(square.top, square.side, size, frame.height);
  const sums = new Float32Array(size * size * 3);
  const line = new Float32Array(size * 3);
  let current = -1;
  // Each row of the frame is shrunk once, and added to the rows of the result that it is part of.
  for (const { source, target, weight } of bySource(rows)) {
    if (source !== current) {
      shrinkRow(frame, source, columns, line);
      current = source;
    }
    const start = target * size * 3;
    for (let i = 0; i < line.length; i++) sums[start + i] += weight * line[i];
  }
  const plane = size * size;
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) out[at + c * plane + i] = Math.round(sums[3 * i + c]) / 127.5 - 1;
  }
}

// Returns the weights with which pixels of a line make up the pixels of a square's line of `size`: an average
// when it shrinks, linear interpolation when it grows. Pixels outside of the frame are black: left out. A large
// line is first halved, so that its places are blocks of pixels.
function weights(start, length, size, limit) {
  const step = halvings(length, size);
  const side = length / step;
  const scale = side / size;
  const found = [];
  const add = (target, place, weight) => {
    if (weight <= 1e-6) return;
    for (let i = 0; i < step; i++) {
      const source = start + place * step + i;
      if (source >= 0 && source < limit) found.push({ source, target, weight: weight / step });
    }
  };
  for (let target = 0; target < size; target++) {
    if (scale > 1) {
      const from = target * scale;
      const to = from + scale;
      for (let place = Math.floor(from); place < Math.min(Math.ceil(to), side); place++) {
        add(target, place, (Math.min(place + 1, to) - Math.max(place, from)) / scale);
      }
    } else {
      const middle = Math.min(Math.max((target + 0.5) * scale - 0.5, 0), side - 1);
      const place = Math.floor(middle);
      add(target, place, 1 - (middle - place));
      add(target, Math.min(place + 1, side - 1), middle - place);
    }
  }
  return found;
}

// Returns by what to divide the side of a square before it is shrunk, so that two to four times `size` are left.
export function halvings(side, size) {
  return powerOfTwo(side / size / 2);
}

// Returns the largest power of two that is at most `times`; 1 if that is below 1.
export function powerOfTwo(times) {
  return 2 ** Math.max(0, Math.floor(Math.log2(times)));
}

function bySource(found) {
  return [...found].sort((a, b) => a.source - b.source);
}

function shrinkRow(frame, row, columns, line) {
  line.fill(0);
  const start = row * frame.width * 4;
  for (const { source, target, weight } of columns) {
    const from = start + source * 4;
    const to = target * 3;
    line[to] += weight * frame.data[from];
    line[to + 1] += weight * frame.data[from + 1];
    line[to + 2] += weight * frame.data[from + 2];
  }
}

// Returns the square around a face as uint8 [size, size, 3], turned so that the eyes are level; outside of the
// frame, its border is repeated. `eyes` is [[x, y], [x, y]], or null to leave the face as it is.
export function crop(frame, box, margin, size, eyes) {
  const side = Math.max(Math.max(box.width, box.height) * (1 + 2 * margin), 1);
  const across = eyes ? eyes[1][0] - eyes[0][0] : 1;
  const down = eyes ? eyes[1][1] - eyes[0][1] : 0;
  const length = Math.hypot(across, down);
  const [cos, sin] = length ? [across / length, down / length] : [1, 0];
  // A face of four times the size or more is halved until it is of two to four times.
  const step = powerOfTwo(side / size / 2);
  const middleX = box.left + box.width / 2;
  const middleY = box.top + box.height / 2;
  const part = step > 1 ? halved(frame, middleX, middleY, side, step) : frame;
  // Sampled at a multiple of the size and averaged, so that a large face keeps no jagged edges.
  const times = Math.ceil(side / step / size);
  const scale = side / step / (size * times);
  const middle = (size * times - 1) / 2;
  const centerX = (middleX - (part.left ?? 0) - step / 2) / step;
  const centerY = (middleY - (part.top ?? 0) - step / 2) / step;
  const { data, width, height } = part;
  const sums = new Float32Array(size * size * 3);
  for (let v = 0; v < size * times; v++) {
    const dy = scale * (v - middle);
    const rowStart = Math.floor(v / times) * size;
    for (let u = 0; u < size * times; u++) {
      const dx = scale * (u - middle);
      const x = Math.min(Math.max(centerX + cos * dx - sin * dy, 0), width - 1);
      const y = Math.min(Math.max(centerY + sin * dx + cos * dy, 0), height - 1);
      const left = Math.floor(x);
      const top = Math.floor(y);
      const a = x - left;
      const b = y - top;
      const one = (top * width + left) * 4;
      const two = left + 1 < width ? one + 4 : one;
      const step = top + 1 < height ? width * 4 : 0;
      const to = (rowStart + Math.floor(u / times)) * 3;
      for (let c = 0; c < 3; c++) {
        const upper = data[one + c] + a * (data[two + c] - data[one + c]);
        const lower = data[one + step + c] + a * (data[two + step + c] - data[one + step + c]);
        sums[to + c] += upper + b * (lower - upper);
      }
    }
  }
  const share = 1 / (times * times);
  return Uint8Array.from(sums, (sum) => Math.round(sum * share));
}

// Returns the part of a frame that a turned square about a middle can touch, each block of step x step pixels averaged,
// and where that part begins in the frame.
function halved(frame, middleX, middleY, side, step) {
  const reach = side / Math.SQRT2 + 2;
  const [left, right] = reached(middleX, reach, frame.width);
  const [top, bottom] = reached(middleY, reach, frame.height);
  const width = Math.ceil((right - left) / step);
  const height = Math.ceil((bottom - top) / step);
  const data = new Float32Array(width * height * 4);
  for (let v = 0; v < height * step; v++) {
    const row = Math.min(top + v, bottom - 1) * frame.width; // beyond its end, the last line is repeated
    for (let u = 0; u < width * step; u++) {
      const from = (row + Math.min(left + u, right - 1)) * 4;
      const to = (Math.floor(v / step) * width + Math.floor(u / step)) * 4;
      for (let c = 0; c < 3; c++) data[to + c] += frame.data[from + c] / (step * step);
    }
  }
  return { data, width, height, left, top };
}

function reached(middle, reach, length) {
  const first = Math.floor(Math.min(Math.max(middle - reach, 0), length - 1));
  return [first, Math.max(Math.min(Math.ceil(middle + reach), length), first + 1)];
}

// Returns the middle square of a frame as a box, for videos that are cropped to the face.
export function wholeFrame(frame) {
  const side = Math.min(frame.width, frame.height);
  const left = Math.floor((frame.width - side) / 2);
  const top = Math.floor((frame.height - side) / 2);
  return { left, top, width: side, height: side };
}
