// Finds the face in frames, cuts it out and runs the network, away from the page so that the page never waits.
// In: {kind: load} | {kind: start, run, isLive} | {kind: frame, time, bitmap} | {kind: end}. Out: see `post`.
import * as ort from "./ort.wasm.bundle.min.mjs";
import { BlazeFace } from "./blazeface.js";
import { load } from "./load.js";
import { crop, wholeFrame } from "./pixels.js";
import { Finder, Follower } from "./tracks.js";
import { Planner, TimeCourse, frameIndices, softmax } from "./windows.js";

const MOST_THREADS = 4;
const LIVE_STRIDE = 0.5; // seconds between two windows, live ...
const SHARE = 0.4; // ... or more, so that the network takes no larger share of the time

let settings, network, detector, stream;

const post = (kind, values = {}) => self.postMessage({ kind, run: stream?.run, ...values });

async function prepare() {
  settings = await (await fetch(new URL("settings.json", import.meta.url))).json();
  const { runtime, network: graph, detector: finder } = settings.files;
  const total = runtime.bytes + graph.bytes + finder.bytes;
  let done = 0;
  const got = (bytes) => post("loading", { share: (done += bytes) / total, total });
  const files = [runtime, graph, finder].map(({ name }) => load(new URL(name, import.meta.url), got));
  const [binary, network_file, detector_file] = await Promise.all(files);
  const threads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
  Object.assign(ort.env.wasm, { wasmBinary: binary, numThreads: threads });
  ort.env.logLevel = "error";
  const create = (file) => ort.InferenceSession.create(new Uint8Array(file), { executionProviders: ["wasm"] });
  network = await create(network_file);
  const faces = await create(detector_file);
  const run = async (input, count) => {
    const { input: size } = settings.blazeface;
    const found = await faces.run({ input: new ort.Tensor("float32", input, [count, 3, size, size]) });
    return { regressors: found.regressors.data, classificators: found.classificators.data };
  };
  detector = new BlazeFace(run, settings.blazeface, settings.cut.min_face);
  await warm();
  post("ready", { settings, threads });
}

// The first run of a network is slow.
async function warm() {
  const { frames, size } = settings;
  await predict(Array(frames).fill(new Uint8Array(size * size * 3)));
}

// A video or a camera: what was seen and predicted so far.
class Stream {
  constructor(run, isLive) {
    this.run = run;
    this.isLive = isLive;
    this.finder = new Finder(detector, settings.tracks, !isLive);
    this.follower = new Follower(settings.tracks);
    this.course = new TimeCourse(settings.classes.length, settings.instants_weight);
    this.planner = new Planner(settings, isLive ? LIVE_STRIDE : settings.stride, isLive);
    this.before = null;
    this.windows = []; // {probs, agreement}, of a file
    this.hasRuns = false;
  }

  async add(time, frame) {
    const isCut = settings.cut.detector !== "none";
    const faces = isCut ? await this.finder.find(frame, time) : [{ box: wholeFrame(frame), points: [] }];
    const decided = this.follower.add(time, frame, faces);
    await this.take(decided);
    return faces.length;
  }

  async end() {
    await this.take(this.follower.end());
    await this.read(this.planner.end(!this.hasRuns));
  }

  async take(decided) {
    for (const frame of decided) {
      const place = this.course.add(frame.time);
      const { longest_step } = settings.tracks;
      const isBreak = this.before && (frame.chain !== this.before.chain || frame.time - this.before.time > longest_step);
      if (!frame.box || isBreak) {
        await this.read(this.planner.end(false));
        this.hasRuns ||= Boolean(this.before?.box);
      }
      this.before = { time: frame.time, chain: frame.chain, box: frame.box };
      const status = !frame.box ? "absent" : frame.found ? "found" : "bridged";
      const face = frame.box && cut(frame);
      post("frame", { place, time: frame.time, status, box: frame.box });
      if (face) await this.read(this.planner.add({ place, time: frame.time, crop: face }));
    }
  }

  // Predicts windows, and tells what changes.
  async read(windows) {
    for (const window of windows) {
      const { frames, snippet, smooth } = settings;
      const chosen = frameIndices(window.length, frames, snippet).map((i) => window[i]);
      const began = performance.now();
      const found = await predict(chosen.map((frame) => frame.crop));
      const seconds = (performance.now() - began) / 1000;
      if (this.isLive) this.planner.stride = Math.max(LIVE_STRIDE, seconds / SHARE);
      const places = window.map((frame) => frame.place);
      this.course.addWindow(places, found.probs);
      if (found.instants) {
        this.course.addInstants(places, Array.from(found.instants, (i) => chosen[i].place), found.instantProbs);
      }
      if (!this.isLive) this.windows.push(found);
      const from = places[0];
      post("window", {
        ...{ from, rows: this.course.probs(from, smooth), probs: found.probs, agreement: found.agreement, seconds },
        ...{ start: window[0].time, end: window.at(-1).time },
      });
    }
  }

  // The prediction of the whole video: the means over its windows; null if there is none.
  summary() {
    const { windows } = this;
    if (!windows.length) return null;
    const mean = (value) => windows.reduce((sum, window) => sum + value(window), 0) / windows.length;
    return {
      probs: settings.classes.map((_, n) => mean((window) => window.probs[n])),
      agreement: mean((window) => window.agreement),
      windows: windows.length,
    };
  }
}

function cut({ frame, box, points }) {
  const { detector: kind, margin, align } = settings.cut;
  const eyes = align && points.length ? points : null;
  return crop(frame, box, kind === "none" ? 0 : margin, settings.size, eyes);
}

// Predicts a window of crops, and its mirror image if the network was calibrated so.
async function predict(crops) {
  const { frames, size, mirror, temperature, classes } = settings;
  const count = mirror ? 2 : 1;
  const one = frames * size * size * 3;
  const pixels = new Uint8Array(count * one);
  crops.forEach((pixel, i) => pixels.set(pixel, i * size * size * 3));
  if (mirror) pixels.set(mirrored(pixels.subarray(0, one), size), one);
  const outputs = await network.run({ frames: new ort.Tensor("uint8", pixels, [count, frames, size, size, 3]) });
  // The mean of both views; key instants and instants are those of the frames themselves.
  const mean = (name) => {
    const { data } = outputs[name];
    const half = data.length / count;
    return Array.from(data.subarray(0, half), (value, i) => (mirror ? (value + data[half + i]) / 2 : value));
  };
  const { instants } = outputs;
  const result = { probs: softmax(mean("logits"), temperature), agreement: mean("agreement")[0] };
  if (!instants) return result;
  const logits = mean("instant_logits");
  const number = instants.dims[1];
  const rows = Array.from({ length: number }, (_, i) => logits.slice(i * classes.length, (i + 1) * classes.length));
  const instantProbs = rows.map((row) => softmax(row, temperature));
  return { ...result, instants: Array.from(instants.data.subarray(0, number), Number), instantProbs };
}

function mirrored(pixels, size) {
  const result = new Uint8Array(pixels.length);
  for (let line = 0; line < pixels.length; line += size * 3) {
    for (let x = 0; x < size; x++) {
      const from = line + x * 3;
      result.set(pixels.subarray(from, from + 3), line + (size - 1 - x) * 3);
    }
  }
  return result;
}

let canvas;

function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  if (canvas?.width !== width || canvas?.height !== height) canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

// Messages are handled one after the other.
let turn = Promise.resolve();

self.onmessage = ({ data }) => {
  turn = turn.then(() => handle(data)).catch((error) => post("error", { text: String(error?.message ?? error) }));
};

async function handle(message) {
  if (message.kind === "load") {
    await prepare();
  } else if (message.kind === "start") {
    stream = new Stream(message.run, message.isLive);
  } else if (message.kind === "frame") {
    const began = performance.now();
    const faces = await stream.add(message.time, pixelsOf(message.bitmap));
    post("next", { faces, seconds: (performance.now() - began) / 1000 });
  } else if (message.kind === "end") {
    await stream.end();
    post("done", { summary: stream.summary() });
  }
}
