// Files that are stored compressed, so that the download is small whatever the server does; and workers.

// Returns the bytes of a file; calls `got` with the number of bytes of each part that arrives.
export async function load(url, got) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url.pathname}: ${answer.status} ${answer.statusText}`);
  const parts = [];
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    got(value.length);
  }
  const bytes = new Blob(parts);
  const [one, two] = new Uint8Array(await bytes.slice(0, 2).arrayBuffer());
  const isPacked = one === 0x1f && two === 0x8b; // some servers unpack .gz files on the way
  const stream = isPacked ? bytes.stream().pipeThrough(new DecompressionStream("gzip")) : bytes.stream();
  return new Response(stream).arrayBuffer();
}

// Returns a worker that runs one of the modules here. Its code comes by an address of this page, so that the
// page's policy holds for the worker, too.
export function spawn(name) {
  const code = `import ${JSON.stringify(new URL(name, import.meta.url).href)};`;
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  return new Worker(address, { type: "module" });
}
