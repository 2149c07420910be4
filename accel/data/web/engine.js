// onnxruntime-web: sessions, what of their graphs went where, and tensors that stay here between two calls.

let ort = null;
let loading = null;
const sessions = new Map();
const kept = new Map();
// devices that WebNN says it compiled graphs for, since the last look
let webnnDevices = [];

const LOAD_MS = 60_000;
// y = x, as ONNX: opening it has onnxruntime-web compile its library and start its threads
const SMALLEST = "CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0=";

// Begins to load onnxruntime-web; `open` waits for it, and meanwhile the model comes. `build` says which of its builds
// is wanted: `wasm` (small) or `webgpu` (with WebGPU and WebNN)
export function load(build, threads) {
  loading ??= start(build, threads);
  loading.catch(() => {});
}

async function start(build, threads) {
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
  const small = Uint8Array.from(atob(SMALLEST), (letter) => letter.charCodeAt(0));
  await (await ort.InferenceSession.create(small, { executionProviders: ["wasm"] })).release();
}

async function loaded() {
  if (!loading) throw new Error("onnxruntime-web was not loaded");
  const late = new Promise((_, fail) => setTimeout(fail, LOAD_MS, new Error("onnxruntime-web did not load in time")));
  await Promise.race([loading, late]);
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
  const weights = Object.entries(data).map(async ([path, url]) => ({ path, data: await bytes(url) }));
  const [model, externalData] = await Promise.all([bytes(graph), Promise.all(weights), loaded()]);
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

// refs: {input: key of a kept tensor}; hold: {input: key to keep what is fed under}; keep: {output: key}; drop: keys;
// last: positions that stay of what is kept
export async function run({ name, tensors, refs = {}, hold = {}, keep = {}, last = null, drop = [] }) {
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
    kept.set(key, last === null ? results[output] : ending(results[output], last));
  }
  return [{ ms }, ready];
}

// The last positions of a cache tensor (batch, heads, positions, size) that is on the processor.
function ending({ data, dims, type }, count) {
  const [batch, heads, positions, size] = dims;
  const all = positions * size;
  const some = count * size;
  const found = new data.constructor(batch * heads * some);
  for (let row = 0; row < batch * heads; row++) {
    found.set(data.subarray((row + 1) * all - some, (row + 1) * all), row * some);
  }
  return new ort.Tensor(type, found, [batch, heads, count, size]);
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
