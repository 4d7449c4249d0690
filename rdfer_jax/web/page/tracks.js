// Finding and following one face over the frames of a stream, as faces/tracks.py does it for whole videos: errors
// of the detector are dropped, short gaps bridged, places smoothed. A frame is handed on once later frames cannot
// change its face any more: after one more frame while the face is in view.
import { bestOverlap } from "./blazeface.js";

const ROUNDING = 1e-3; // times that differ by less are equal, seconds
const LARGER = 1.5; // a face with this multiple of the followed one's area ...
const PATIENCE = 1; // ... for so long, seconds, is followed from then on

// Finds the faces in successive frames; searches the whole frame only from time to time.
export class Finder {
  constructor(detector, constants, small) {
    this.detector = detector;
    this.constants = constants;
    this.small = small;
    this.searched = -Infinity;
    this.before = [];
  }

  async find(frame, time) {
    const { search_every, same_face } = this.constants;
    const isDue = time - this.searched >= search_every - ROUNDING;
    const near = isDue ? [] : this.before.map((face) => face.box);
    const found = near.length ? await this.detector.find(frame, near, false) : [];
    if (found.length < Math.max(1, near.length)) {
      const others = await this.detector.find(frame, [], isDue && this.small);
      found.push(...others.filter((face) => !bestOverlap(found, face.box, same_face)));
      if (isDue) this.searched = time;
    }
    this.before = found;
    return found;
  }
}

// Follows one face: the largest when it starts, then the same until it is gone or another is clearly larger.
export class Follower {
  constructor(constants) {
    this.constants = constants;
    this.waiting = []; // {time, frame, face, chain, row}: row is undefined until it is known, null if absent
    this.rows = []; // of frames that were handed on, as far as they are needed for smoothing
    this.times = []; // of all frames of the last seconds
    this.seen = []; // {time, chain} of all detections of the last seconds
    this.chain = 0;
    this.last = null; // {time, box} of the followed face
    this.challenged = null; // since when another face is larger
    this.lastKnown = null; // the last row that is known
  }

  // Takes a frame and its faces; returns the frames that are decided, see `decided`.
  add(time, frame, faces) {
    const face = this.choose(time, faces);
    this.waiting.push({ time, frame, face, chain: this.chain, row: undefined });
    if (face) {
      this.last = { time, box: face.box };
      this.seen.push({ time, chain: this.chain });
    }
    this.times.push(time);
    this.times = this.times.filter((other) => time - other <= 3);
    this.seen = this.seen.filter((seen) => time - seen.time <= 3);
    return this.decided(time, false);
  }

  // Returns the frames that are left, at the end.
  end() {
    return this.decided(this.waiting.at(-1)?.time ?? 0, true);
  }

  choose(time, faces) {
    const { longest_gap, quick, same_face } = this.constants;
    const largest = faces.reduce((best, face) => (best && area(best) >= area(face) ? best : face), null);
    if (!largest) return null;
    const isRecent = this.last && time - this.last.time <= longest_gap;
    const same = this.last && bestOverlap(faces, this.last.box, isRecent ? quick : same_face);
    if (same && area(largest) > LARGER * area(same)) {
      this.challenged ??= time;
      if (time - this.challenged < PATIENCE) return same;
    } else if (same || isRecent) {
      this.challenged = null;
      return same;
    }
    this.challenged = null;
    this.chain++;
    return largest;
  }

  // Returns [{time, frame, box, points, found, chain}], box is null where the face is absent.
  decided(now, isEnd) {
    this.settle(now, isEnd);
    const result = [];
    while (this.waiting.length) {
      const [first] = this.waiting;
      if (first.row === undefined) break;
      const smooth = first.row && this.smooth(first, isEnd);
      if (smooth === undefined) break;
      this.waiting.shift();
      this.rows.push(first);
      this.rows = this.rows.filter((row) => first.time - row.time <= 1);
      const { time, frame, chain } = first;
      result.push({ time, frame, chain, found: Boolean(first.face), ...(smooth ?? { box: null, points: [] }) });
    }
    return result;
  }

  // Decides which detections are errors, and where a face is that was not found.
  settle(now, isEnd) {
    const { longest_gap } = this.constants;
    for (const [place, waiting] of this.waiting.entries()) {
      if (waiting.row !== undefined) continue;
      const isSettled = isEnd || now - waiting.time > 1;
      if (waiting.face && !this.isCertain(waiting, isSettled)) {
        if (!isSettled) return;
        waiting.face = null;
      }
      if (waiting.face) {
        waiting.row = numbers(waiting.face);
        this.lastKnown = waiting;
        continue;
      }
      const known = this.lastKnown;
      if (!known || waiting.time - known.time > longest_gap) {
        waiting.row = null;
        continue;
      }
      const next = this.waiting.slice(place).find((other) => other.face);
      const isNextSettled = next && (isEnd || now - next.time > 1);
      const isNextCertain = next && this.isCertain(next, isNextSettled);
      if (next && !isNextCertain && !isNextSettled) return;
      if (isNextCertain && next.chain === known.chain && next.time - known.time <= longest_gap) {
        const share = (waiting.time - known.time) / (next.time - known.time);
        const after = numbers(next.face);
        waiting.row = known.row.map((value, i) => value + share * (after[i] - value));
        waiting.chain = known.chain;
      } else if (next || isEnd || now - known.time > longest_gap) {
        waiting.row = null;
      } else {
        return;
      }
    }
  }

  // Whether enough detections of the face are near in time; where there are few frames, all of them, which is known
  // once it is settled.
  isCertain({ time, chain }, isSettled) {
    const { least_hits } = this.constants;
    const tenths = (times) => new Set(times.filter((t) => Math.abs(t - time) <= 1 + 1e-9).map((t) => this.tenth(t))).size;
    const hits = tenths(this.seen.filter((seen) => seen.chain === chain).map((seen) => seen.time));
    return hits >= least_hits || (isSettled && hits >= tenths(this.times));
  }

  // Averages a row over its neighbors in time; undefined if a later frame is needed for that.
  smooth(row, isEnd) {
    const { smooth } = this.constants;
    const known = [...this.rows, ...this.waiting];
    const place = known.indexOf(row);
    let first = place;
    while (first > 0 && follows(known[first - 1], known[first])) first--;
    let last = place;
    while (known[last + 1]?.row && follows(known[last], known[last + 1])) last++;
    const next = known[last + 1];
    const isOver = isEnd || (next && next.row !== undefined);
    if (!isOver && known[last].time - row.time < smooth - ROUNDING) return undefined;
    const after = isOver ? known[last].time - row.time : smooth;
    const reach = Math.min(smooth, row.time - known[first].time, after) + ROUNDING;
    const near = known.slice(first, last + 1).filter((other) => Math.abs(other.time - row.time) <= reach);
    const mean = row.row.map((_, i) => near.reduce((sum, other) => sum + other.row[i], 0) / near.length);
    const [left, top, width, height, ...rest] = mean;
    const points = Array.from({ length: rest.length / 2 }, (_, i) => [rest[2 * i], rest[2 * i + 1]]);
    return { box: { left, top, width, height }, points };
  }

  tenth(time) {
    return Math.floor((time + ROUNDING) / this.constants.hit);
  }
}

function follows(one, two) {
  return Boolean(one.row && two.row) && one.chain === two.chain;
}

function numbers({ box, points }) {
  return [box.left, box.top, box.width, box.height, ...points.flat()];
}

function area({ box }) {
  return box.width * box.height;
}
