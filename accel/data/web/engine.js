// onnxruntime-web: sessions, what of their graphs went where, and tensors that stay here between two calls.

let ort = null;
const sessions = new Map();
const kept = new Map();
// devices that WebNN says it compiled graphs for, since the last look
let webnnDevices = [];

// `build` says which of onnxruntime-web's builds is wanted: `wasm` (small) or `webgpu` (with WebGPU and WebNN)
export async function load(build, threads) {
  if (ort) return;
  const module = await import(`./ort/ort.${build}.min.mjs`);
  ort = module.default ?? module;
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.logLevel = "error";
  if (globalThis.MLGraphBuilder) {
    const build = MLGraphBuilder.prototype.build;
    MLGraphBuilder.prototype.build = async function (...rest) {
      const graph = await build.apply(this, rest);
      webnnDevices.push(...(graph.devices ?? []));
      return graph;
    };
  }
}

// What is written to the console goes here while somebody listens. ONNX Runtime takes hold of the console's functions
// once, when it starts, so they are exchanged before that and stay exchanged.
let heard = null;
for (const name of ["log", "info", "debug", "warn", "error"]) {
  const write = console[name].bind(console);
  console[name] = (...words) => (heard ? heard.push(words.join(" ")) : write(...words));
}

async function listening(work) {
  const lines = [];
  heard = lines;
  try {
    return [await work(), lines];
  } finally {
    heard = null;
  }
}

// ONNX Runtime tells where it placed a graph's nodes only in its log of level 0. WebNN's nodes are fused into a few by
// then, and counted before that.
function placements(lines) {
  const found = {};
  const add = (name, count) => { found[name] = (found[name] ?? 0) + Number(count); };
  let fused = 0;
  for (const line of lines) {
    const placed = /placed on \[(\w+)\]\. Number of nodes: (\d+)/.exec(line);
    if (placed && placed[1] !== "WebNNExecutionProvider") add(placed[1], placed[2]);
    else if (placed) fused += Number(placed[2]);
    const taken = /number of nodes supported by WebNN: (\d+)/.exec(line);
    if (taken) add("WebNNExecutionProvider", taken[1]);
  }
  // none of those that it said it could take is there in the end
  if (!fused) delete found.WebNNExecutionProvider;
  return found;
}

// The WebGPU adapter that onnxruntime-web uses, once it uses one.
async function adapter() {
  const info = (await ort.env.webgpu?.device)?.adapterInfo;
  if (!info) return null;
  const { vendor, architecture, device, description, isFallbackAdapter } = info;
  return { vendor, architecture, device, description, fallback: isFallbackAdapter ?? false };
}

async function bytes(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

export async function open({ name, graph, data, options }) {
  const model = await bytes(graph);
  const externalData = await Promise.all(
    Object.entries(data).map(async ([path, url]) => ({ path, data: await bytes(url) })),
  );
  const started = performance.now();
  webnnDevices = [];
  const settings = { ...options, externalData, logSeverityLevel: 0, logVerbosityLevel: 0 };
  const [session, lines] = await listening(() => ort.InferenceSession.create(model, settings));
  sessions.set(name, session);
  return {
    ms: performance.now() - started,
    placements: placements(lines),
    devices: [...new Set(webnnDevices)],
    adapter: await adapter(),
    inputs: session.inputNames,
    outputs: session.outputNames,
  };
}

// refs: {input: key of a kept tensor}; hold: {input: key to keep what is fed under}; keep: {output: key}; drop: keys
export async function run({ name, tensors, refs = {}, hold = {}, keep = {}, drop = [] }) {
  const session = sessions.get(name);
  if (!session) throw new Error(`there is no session ${name}`);
  drop.forEach(forget);
  const feeds = {};
  for (const t of tensors) {
    feeds[t.name] = new ort.Tensor(t.dtype, t.data, t.shape);
    if (t.name in hold) kept.set(hold[t.name], feeds[t.name]);
  }
  for (const [input, key] of Object.entries(refs)) feeds[input] = kept.get(key);
  const started = performance.now();
  const results = await session.run(feeds);
  const ready = [];
  for (const [output, tensor] of Object.entries(results)) {
    if (output in keep) continue;
    ready.push({ name: output, dtype: tensor.type, shape: tensor.dims, data: await tensor.getData() });
    if (tensor.location === "gpu-buffer") tensor.dispose();
  }
  const ms = performance.now() - started;
  for (const [output, key] of Object.entries(keep)) {
    forget(key);
    kept.set(key, results[output]);
  }
  return [{ ms }, ready];
}

function forget(key) {
  kept.get(key)?.dispose();
  kept.delete(key);
}

export async function close(name) {
  const session = sessions.get(name);
  sessions.delete(name);
  await session?.release();
}
