// Finds the face in frames and cuts it out, away from the page so that the page never waits; network.js, beside it,
// says what windows of faces show, so that live no frame waits for that.
// In: {kind: load} | {kind: start, run, isLive} | {kind: frame, time, bitmap} | {kind: end}. Out: see `post`.
import * as ort from "./ort.wasm.bundle.min.mjs";
import { BlazeFace } from "./blazeface.js";
import { load, spawn } from "./load.js";
import { crop, wholeFrame } from "./pixels.js";
import { Finder, Follower } from "./tracks.js";
import { Planner, TimeCourse, frameIndices } from "./windows.js";

const MOST_THREADS = 4;
const LIVE_STRIDE = 0.5; // seconds between two windows, live, or as long as the network takes

let settings, network, detector, stream;

const post = (kind, values = {}) => self.postMessage({ kind, run: stream?.run, ...values });

async function prepare() {
  settings = await (await fetch(new URL("settings.json", import.meta.url))).json();
  const { runtime, network: graph, detector: finder } = settings.files;
  const total = runtime.bytes + graph.bytes + finder.bytes;
  let done = 0;
  const got = (bytes) => post("loading", { share: (done += bytes) / total, total });
  const files = [runtime, graph, finder].map(({ name }) => load(new URL(name, import.meta.url), got));
  const [binary, networkFile, detectorFile] = await Promise.all(files);
  const cores = navigator.hardwareConcurrency || 1;
  const threads = self.crossOriginIsolated ? Math.min(MOST_THREADS, Math.max(1, cores - 1)) : 1;
  network = new Network();
  await network.ask({ kind: "load", binary, file: networkFile, settings, threads });
  Object.assign(ort.env.wasm, { wasmBinary: binary, numThreads: 1 });
  ort.env.logLevel = "error";
  const faces = await ort.InferenceSession.create(new Uint8Array(detectorFile), { executionProviders: ["wasm"] });
  const run = async (input, count) => {
    const { input: size } = settings.blazeface;
    const found = await faces.run({ input: new ort.Tensor("float32", input, [count, 3, size, size]) });
    return { regressors: found.regressors.data, classificators: found.classificators.data };
  };
  detector = new BlazeFace(run, settings.blazeface, settings.cut.min_face);
  post("ready", { settings, threads });
}

// The worker that runs the network; answers come in the order of the questions.
class Network {
  constructor() {
    this.worker = spawn("network.js");
    this.waiting = [];
    this.worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.waiting.shift();
      if (data.error) reject(new Error(data.error));
      else resolve(data.result);
    };
    this.worker.onerror = ({ message }) => this.waiting.shift()?.reject(new Error(message));
  }

  ask(question) {
    this.worker.postMessage(question);
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  }
}

// A video or a camera: what was seen and predicted so far.
class Stream {
  constructor(run, isLive) {
    this.run = run;
    this.isLive = isLive;
    this.finder = new Finder(detector, settings.tracks, !isLive);
    this.follower = new Follower(settings.tracks);
    this.course = new TimeCourse(settings.classes.length, settings.instants_share);
    this.planner = new Planner(settings, isLive ? LIVE_STRIDE : settings.stride, isLive);
    this.before = null;
    this.windows = []; // {probs, agreement}, of a file
    this.hasRuns = false;
    this.isBusy = false; // live, while a window is predicted
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
      const { time, chain, box, found } = frame;
      const place = this.course.add(time);
      post("frame", { place, time, status: !box ? "absent" : found ? "found" : "bridged", box });
      const { before } = this;
      const isBreak = before && (chain !== before.chain || time - before.time > settings.tracks.longest_step);
      if (!box || isBreak) {
        await this.read(this.planner.end(false));
        this.hasRuns ||= Boolean(before?.box);
      }
      this.before = { time, chain, box };
      if (box) await this.read(this.planner.add({ place, time, crop: cut(frame) }, this.isBusy));
    }
  }

  // Predicts windows. A file waits for them; a camera goes on.
  async read(windows) {
    for (const window of windows) {
      const done = this.predict(window);
      if (!this.isLive) {
        await done;
        continue;
      }
      this.isBusy = true;
      done.catch(fail).finally(() => (this.isBusy = false));
    }
  }

  // Predicts a window, and tells what that changes.
  async predict(window) {
    const { frames, snippet, snippet_stride: stride, smooth } = settings;
    const chosen = frameIndices(window.length, frames, snippet, stride).map((i) => window[i]);
    const found = await network.ask({ kind: "predict", crops: chosen.map((frame) => frame.crop) });
    const places = window.map((frame) => frame.place);
    this.course.addWindow(places, found.probs);
    if (found.instants) {
      this.course.addInstants(places, Array.from(found.instants, (i) => chosen[i].place), found.instantProbs);
    }
    if (!this.isLive) this.windows.push(found);
    const from = places[0];
    const { probs, agreement } = found;
    post("window", { run: this.run, from, rows: this.course.probs(from, smooth), probs, agreement });
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
  return crop(frame, box, kind === "none" ? 0 : margin, settings.side, eyes);
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
  turn = turn.then(() => handle(data)).catch(fail);
};

function fail(error) {
  post("error", { text: String(error?.message ?? error) });
}

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
