// Frames of a camera as they come, and of a video file one by one.
const ROUNDING = 1e-3; // seconds
const PATIENCE = 250; // longest wait for a frame to be shown, milliseconds
const MOST_PIXELS = 1280; // long side of a frame that is analyzed

// Yields {time, bitmap} of a playing camera, at most `fps` a second and only when the one before is done.
export async function* cameraFrames(video, fps, isOn) {
  let slot = -1;
  let first = null;
  while (isOn()) {
    const now = await nextFrame(video);
    first ??= now;
    const time = (now - first) / 1000;
    const current = Math.floor((time + ROUNDING) * fps);
    if (current <= slot || video.readyState < 2) continue;
    slot = current;
    yield { time, bitmap: await bitmapOf(video) };
  }
}

function nextFrame(video) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(performance.now()), 500);
    const done = (now) => {
      clearTimeout(timer);
      resolve(now);
    };
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(done);
    else requestAnimationFrame(done);
  });
}

// Yields {time, bitmap} of a video file: the first frame in each slot of 1 / fps seconds, as media/video.py does.
export async function* fileFrames(video, fps, isOn) {
  const first = await seek(video, 0, 0);
  const step = await frameLength(video, first, fps);
  let now = await seek(video, first + step / 2, first);
  yield { time: 0, bitmap: await bitmapOf(video) };
  while (isOn()) {
    const slot = Math.floor((now - first + ROUNDING) * fps) + 1;
    const target = first + slot / fps - ROUNDING;
    const ahead = Math.max(1, Math.ceil((target - now) / step - ROUNDING));
    const wanted = now + (ahead + 0.5) * step;
    if (wanted >= video.duration) return;
    const shown = await seek(video, wanted, now);
    if (shown <= now + ROUNDING) return; // it ends before it says
    now = shown;
    if (Math.floor((now - first + ROUNDING) * fps) < slot) continue; // frames are not evenly spaced
    yield { time: now - first, bitmap: await bitmapOf(video) };
  }
}

// Shows the frame at a time, and returns that frame's own time, seconds; `shown` if the frame stays the same.
async function seek(video, time, shown) {
  const announced = new Promise((resolve) => {
    if (video.requestVideoFrameCallback) {
      video.requestVideoFrameCallback((_, { mediaTime }) => resolve(mediaTime));
    }
  });
  await new Promise((resolve, reject) => {
    video.addEventListener("seeked", resolve, { once: true });
    video.addEventListener("error", () => reject(new Error("the video cannot be read any further")), { once: true });
    video.currentTime = time;
  });
  if (!video.requestVideoFrameCallback) return video.currentTime;
  return Promise.race([announced, new Promise((resolve) => setTimeout(resolve, PATIENCE, shown))]);
}

// Returns the time from a video's first frame to its second, seconds.
async function frameLength(video, first, fps) {
  if (!video.requestVideoFrameCallback) return 1 / fps;
  for (let time = 0.006; time < Math.min(1 / fps, video.duration); time += 0.004) {
    const shown = await seek(video, first + time, first);
    if (shown > first + ROUNDING) return shown - first;
  }
  return 1 / fps;
}

async function bitmapOf(video) {
  const { videoWidth: width, videoHeight: height } = video;
  const scale = Math.min(1, MOST_PIXELS / Math.max(width, height));
  if (scale === 1) return createImageBitmap(video);
  const size = { resizeWidth: Math.round(width * scale), resizeHeight: Math.round(height * scale) };
  return createImageBitmap(video, { ...size, resizeQuality: "high" });
}
