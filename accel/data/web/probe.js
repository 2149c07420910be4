// What this browser really offers.

const LIMITS = ["maxBufferSize", "maxStorageBufferBindingSize", "maxComputeWorkgroupStorageSize", "maxComputeInvocationsPerWorkgroup"];

async function webgpu() {
  if (!navigator.gpu) return { present: false, reason: "the browser has no navigator.gpu" };
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" })
    ?? await navigator.gpu.requestAdapter({ forceFallbackAdapter: true });
  if (!adapter) return { present: false, reason: "the browser gives no adapter" };
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info ?? {};
  return {
    present: true,
    vendor, architecture, device, description,
    fallback: isFallbackAdapter ?? adapter.isFallbackAdapter ?? false,
    features: [...adapter.features].sort(),
    limits: Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]])),
  };
}

// A context says little: some browsers give one for a device that then cannot build. So a sum is really executed.
async function executes(deviceType) {
  const context = await navigator.ml.createContext({ deviceType });
  const builder = new MLGraphBuilder(context);
  const shape = { dataType: "float32", shape: [4] };
  const sum = builder.add(builder.input("a", shape), builder.input("b", shape));
  const graph = await builder.build({ sum });
  const tensor = (extra) => context.createTensor({ ...shape, ...extra });
  const [a, b, out] = await Promise.all([tensor({ writable: true }), tensor({ writable: true }), tensor({ readable: true })]);
  context.writeTensor(a, new Float32Array([1, 2, 3, 4]));
  context.writeTensor(b, new Float32Array([10, 20, 30, 40]));
  context.dispatch(graph, { a, b }, { sum: out });
  const found = [...new Float32Array(await context.readTensor(out))];
  if (found.join() !== "11,22,33,44") throw new Error(`a sum of four numbers came out as ${found}`);
  const devices = graph.devices ? [...graph.devices] : null;
  context.destroy?.();
  return devices;
}

async function webnn() {
  if (!navigator.ml) return { present: false, reason: "the browser has no navigator.ml", types: {} };
  const types = {};
  for (const type of ["npu", "gpu", "cpu"]) {
    try {
      types[type] = { executes: true, devices: await executes(type) };
    } catch (error) {
      types[type] = { executes: false, reason: error?.message ?? String(error) };
    }
  }
  const present = Object.values(types).some((type) => type.executes);
  const reason = present ? "" : types.cpu.reason;
  return { present, reason, types };
}

export async function probe(what) {
  const answer = what === "webnn" ? await webnn() : await webgpu();
  return { ...answer, agent: navigator.userAgent, isolated: crossOriginIsolated, cores: navigator.hardwareConcurrency };
}
