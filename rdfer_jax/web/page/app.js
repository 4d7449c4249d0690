// The page: camera or video file in, expression, chart and CSV out. The work is done in worker.js.
import { Chart, clock } from "./chart.js";
import { spawn } from "./load.js";
import { cameraFrames, fileFrames } from "./source.js";

const LIVE_SECONDS = 30; // that the chart shows, live
const STALE = 3; // after so long without a prediction, none is shown, seconds
const SPOKEN = 3000; // shortest time between two announcements, milliseconds
const UNSURE = "unsure";
const DASH = "\u2013";

const $ = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)} %`;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let settings;
let frames = []; // {time, status, box, probs}, what is known of each analyzed frame
let agreement = null; // of the last window
let total = null; // {probs, agreement, windows} of a whole video
let mode = null; // null, "camera" or "file"
let run = 0; // number of the camera or file that is read
let name = "";
let next = null; // resolves when the worker is done with a frame
let finished = null; // resolves when it has read all
let speeds = [];
let spoken = { text: "", at: -Infinity };
const chart = new Chart($("chart"));

const worker = spawn("worker.js");
worker.onerror = (event) => fail(event.message || "the worker did not start");
worker.onmessage = ({ data }) => {
  if (data.run === undefined || data.run === run || data.kind === "error") handlers[data.kind](data);
};

const handlers = {
  loading({ share, total }) {
    const megabytes = (total / 1e6).toFixed(1);
    say(`Loading ${megabytes} MB`);
    $("progress").value = share;
  },
  ready({ settings: given, threads }) {
    settings = given;
    $("about").textContent =
      `Network: ${settings.network}. ${threads} thread${threads > 1 ? "s" : ""}. ` +
      `At most ${settings.fps} frames a second, windows of ${settings.window} s.`;
    $("least").value = 100 * settings.min_confidence;
    makeBars();
    showLeast();
    idle("Ready");
    document.body.dataset.state = "ready";
  },
  frame({ place, time, status, box }) {
    frames[place] = { time, status, box, probs: null };
  },
  window({ from, rows, agreement: agrees }) {
    rows.forEach((probs, i) => (frames[from + i].probs = probs));
    agreement = agrees;
  },
  next({ faces, seconds }) {
    speeds.push({ at: performance.now(), seconds });
    speeds = speeds.filter(({ at }) => performance.now() - at < 3000);
    next?.(faces);
    show();
  },
  done({ summary }) {
    finished?.(summary);
  },
  error({ text }) {
    fail(text);
  },
};
worker.postMessage({ kind: "load" });

// Reads a camera or a video until it ends or is stopped.
async function read(kind, source, video) {
  const mine = ++run;
  const isOn = () => run === mine;
  frames = [];
  speeds = [];
  agreement = total = null;
  mode = kind;
  $("summary").textContent = "";
  $("hint").hidden = true;
  $("screen").classList.toggle("mirrored", kind === "camera");
  buttons();
  document.body.dataset.state = kind;
  worker.postMessage({ kind: "start", run, isLive: kind === "camera" });
  for await (const { time, bitmap } of source(video, settings.fps, isOn)) {
    const done = new Promise((resolve) => (next = resolve));
    worker.postMessage({ kind: "frame", time, bitmap }, [bitmap]);
    await done;
    if (!isOn()) break;
    if (kind === "file") {
      $("progress").value = video.duration ? time / video.duration : 0;
      say(`Reading ${clock(time)} of ${clock(video.duration)}`);
    }
  }
  if (!isOn()) return;
  const last = new Promise((resolve) => (finished = resolve));
  worker.postMessage({ kind: "end" });
  total = await last;
  if (!isOn()) return;
  tell();
  idle(frames.length ? "Done" : "Ready");
  show();
  document.body.dataset.state = "done";
}

async function useCamera() {
  stopTracks();
  if (!navigator.mediaDevices) {
    say("Browsers give the camera only to pages on localhost or https.");
    return;
  }
  const wanted = { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" };
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
  } catch (error) {
    const reasons = { NotAllowedError: "The camera was not allowed.", NotFoundError: "There is no camera." };
    say(reasons[error.name] ?? `The camera cannot be used: ${error.message}`);
    return;
  }
  const video = $("video");
  video.removeAttribute("src");
  video.srcObject = stream;
  await video.play();
  name = "camera";
  say("Reading the camera");
  $("progress").hidden = true;
  await read("camera", cameraFrames, video).catch((error) => fail(error.message));
}

async function useFile(file) {
  stopTracks();
  const video = $("video");
  if (video.src) URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.src = URL.createObjectURL(file);
  name = file.name;
  try {
    await new Promise((resolve, reject) => {
      video.onloadeddata = resolve;
      video.onerror = () => reject(new Error(`${file.name}: this browser cannot read it as a video`));
    });
    video.onerror = null;
    if (!video.videoWidth) throw new Error(`${file.name}: this browser cannot decode its pictures`);
    $("progress").hidden = false;
    await read("file", fileFrames, video);
  } catch (error) {
    fail(error.message);
  }
}

function stopTracks() {
  run++;
  for (const track of $("video").srcObject?.getTracks() ?? []) track.stop();
}

function stop() {
  stopTracks();
  $("video").srcObject = null;
  idle("Stopped");
  document.body.dataset.state = "done";
}

function idle(text) {
  mode = null;
  say(text);
  $("progress").hidden = true;
  buttons();
}

function fail(text) {
  stopTracks();
  idle(`Error: ${text}`);
  document.body.dataset.state = "error";
}

function buttons() {
  $("camera").disabled = !settings || mode === "camera";
  $("file").disabled = !settings;
  $("stop").disabled = !mode;
  $("save").disabled = !frames.length;
}

function say(text) {
  if ($("status").textContent !== text) $("status").textContent = text;
}

function makeBars() {
  $("bars").replaceChildren(
    ...settings.classes.map((className, n) => {
      const row = document.createElement("li");
      const [label, track, fill, share] = ["span", "span", "span", "span"].map((tag) => document.createElement(tag));
      label.textContent = className;
      track.className = "track";
      fill.className = "fill";
      fill.style.display = track.style.display = "block";
      fill.style.background = settings.colors[n];
      share.className = "share";
      share.textContent = DASH;
      track.append(fill);
      row.append(label, track, share);
      return row;
    }),
  );
}

// The newest prediction, if it is not too old.
function newest() {
  const last = frames.at(-1);
  if (!last || last.status === "absent") return null;
  for (let i = frames.length - 1; i >= 0 && last.time - frames[i].time <= STALE; i--) {
    if (frames[i].status === "absent") return null;
    if (frames[i].probs) return frames[i].probs;
  }
  return null;
}

function called(probs) {
  const best = probs.indexOf(Math.max(...probs));
  const isUnsure = probs[best] < $("least").value / 100;
  return { best, text: isUnsure ? UNSURE : settings.classes[best], isUnsure };
}

let drawn = -Infinity;

function show() {
  if (!settings) return;
  const now = performance.now();
  if (calm.matches && mode && now - drawn < 1000) return;
  drawn = now;
  const last = frames.at(-1);
  const isAbsent = !total && last?.status === "absent";
  $("label").textContent = total ? "The whole video" : "Expression now";
  showVerdict(total?.probs ?? newest(), total?.agreement ?? agreement, isAbsent);
  showBox(last);
  const seconds = last?.time ?? 0;
  const start = mode === "file" || !mode ? 0 : Math.max(0, seconds - LIVE_SECONDS);
  const span = mode === "file" ? $("video").duration || 1 : LIVE_SECONDS;
  const end = mode === "camera" ? start + LIVE_SECONDS : Math.max(seconds, mode ? span : 1);
  chart.draw(frames, settings.colors, start, end);
  if (speeds.length > 1) {
    const rate = (1000 * (speeds.length - 1)) / (speeds.at(-1).at - speeds[0].at);
    $("speed").textContent = rate.toFixed(1);
  }
  if ($("save").disabled !== !frames.length) buttons();
}

function showVerdict(probs, agrees, isAbsent) {
  const expression = $("expression");
  if (!probs) {
    expression.textContent = isAbsent ? "no face" : DASH;
    expression.style.borderColor = "";
    $("confidence").textContent = $("agreement").textContent = DASH;
    if (isAbsent) announce("no face");
  } else {
    const { best, text, isUnsure } = called(probs);
    expression.textContent = text;
    expression.style.borderColor = isUnsure ? "" : settings.colors[best];
    $("confidence").textContent = percent(probs[best]);
    $("agreement").textContent = agrees === null ? DASH : agrees.toFixed(2);
    announce(text);
  }
  [...$("bars").children].forEach((row, n) => {
    row.querySelector(".fill").style.transform = `scaleX(${probs ? probs[n] : 0})`;
    row.querySelector(".share").textContent = probs ? percent(probs[n]) : DASH;
  });
}

// Tells screen readers a new expression, and not too often.
function announce(text) {
  const now = performance.now();
  if (text === spoken.text || now - spoken.at < SPOKEN) return;
  spoken = { text, at: now };
  $("spoken").textContent = text;
  $("chart").setAttribute("aria-label", `Probabilities over time; last: ${text}`);
}

function showBox(last) {
  const { videoWidth, videoHeight, clientWidth, clientHeight } = $("video");
  const canvas = $("boxes");
  const ratio = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: clientWidth * ratio, height: clientHeight * ratio });
  if (!last?.box || !mode || !videoWidth) return;
  const context = canvas.getContext("2d");
  const analyzed = Math.min(1, 1280 / Math.max(videoWidth, videoHeight));
  const scale = Math.min(clientWidth / videoWidth, clientHeight / videoHeight);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.translate((clientWidth - scale * videoWidth) / 2, (clientHeight - scale * videoHeight) / 2);
  context.scale(scale / analyzed, scale / analyzed);
  context.strokeStyle = $("expression").style.borderColor || "#ffffff";
  context.lineWidth = (3 * analyzed) / scale;
  const { left, top, width, height } = last.box;
  context.strokeRect(left, top, width, height);
}

// Sums up a video.
function tell() {
  const present = frames.filter((frame) => frame.status !== "absent").length;
  const seen = `face in ${present} of ${frames.length} frames`;
  if (!total) {
    $("summary").textContent = present ? `no face was in view long enough; ${seen}` : `no face was found; ${seen}`;
    return;
  }
  const { best, text, isUnsure } = called(total.probs);
  const sure = `${settings.classes[best]} ${percent(total.probs[best])}`;
  $("summary").textContent =
    `${name}: ${isUnsure ? `${text} (at best ${sure})` : sure}, ` +
    `agreement ${total.agreement.toFixed(2)}, ${total.windows} window${total.windows > 1 ? "s" : ""}; ${seen}`;
}

function csv() {
  const number = (value, digits) => (value === undefined || value === null ? "" : value.toFixed(digits));
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const head = ["time", "status", "left", "top", "width", "height", ...settings.classes.map(quoted)];
  const rows = frames.map(({ time, status, box, probs }) => [
    ...[time.toFixed(3), status, number(box?.left, 1), number(box?.top, 1), number(box?.width, 1)],
    ...[number(box?.height, 1), ...settings.classes.map((_, n) => number(probs?.[n], 4))],
  ]);
  return [head, ...rows].map((row) => `${row.join(",")}\r\n`).join("");
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = `${name.replace(/\.[^.]*$/, "") || "expressions"}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function showLeast() {
  $("least_value").textContent = `${$("least").value} %`;
}

$("camera").onclick = useCamera;
$("stop").onclick = stop;
$("save").onclick = save;
$("file").onchange = ({ target }) => {
  if (target.files[0]) useFile(target.files[0]);
  target.value = "";
};
$("least").oninput = () => {
  showLeast();
  show();
};
$("screen").ondragover = (event) => {
  event.preventDefault();
  $("screen").classList.add("dropping");
};
$("screen").ondragleave = () => $("screen").classList.remove("dropping");
$("screen").ondrop = (event) => {
  event.preventDefault();
  $("screen").classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (file && settings) useFile(file);
};
addEventListener("resize", show);
