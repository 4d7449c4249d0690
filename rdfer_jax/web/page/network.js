// Runs the network on windows of faces. In: {kind: load, binary, file, settings, threads} once, then
// {kind: predict, crops}, each as uint8 [S, S, 3]. Out: {result} or {error}, in the same order.
import * as ort from "./ort.wasm.bundle.min.mjs";
import { softmax } from "./windows.js";

let settings, network;

async function prepare({ binary, file, settings: given, threads }) {
  settings = given;
  Object.assign(ort.env.wasm, { wasmBinary: binary, numThreads: threads });
  ort.env.logLevel = "error";
  network = await ort.InferenceSession.create(new Uint8Array(file), { executionProviders: ["wasm"] });
  const { frames, side } = settings;
  await predict(Array(frames).fill(new Uint8Array(side * side * 3))); // the first run is slow
}

// Predicts a window of crops, and its mirror image if the network was calibrated so.
async function predict(crops) {
  const { frames, side, mirror, temperature, classes } = settings;
  const count = mirror ? 2 : 1;
  const one = frames * side * side * 3;
  const pixels = new Uint8Array(count * one);
  crops.forEach((pixel, i) => pixels.set(pixel, i * side * side * 3));
  if (mirror) pixels.set(mirrored(pixels.subarray(0, one), side), one);
  const outputs = await network.run({ frames: new ort.Tensor("uint8", pixels, [count, frames, side, side, 3]) });
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

// Questions are answered one after the other.
let turn = Promise.resolve();

self.onmessage = ({ data }) => {
  const answer = () => (data.kind === "load" ? prepare(data) : predict(data.crops));
  turn = turn.then(answer).then(
    (result) => self.postMessage({ result }),
    (error) => self.postMessage({ error: String(error?.message ?? error) }),
  );
};
