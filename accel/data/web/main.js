// The page that accel drives: it takes calls over a WebSocket and answers each.

import * as engine from "./engine.js";
import { pack, unpack } from "./messages.js";
import { probe } from "./probe.js";

const operations = {
  probe: async ({ what }) => [await probe(what)],
  load: async ({ build, threads }) => [await engine.load(build, threads) ?? { agent: navigator.userAgent }],
  open: async (call) => [await engine.open(call)],
  run: engine.run,
  forget: async ({ keys }) => [keys.forEach(engine.forget) ?? {}],
  close: async ({ name }) => [await engine.close(name) ?? {}],
  echo: async ({ tensors }) => [{}, tensors],
};

const socket = new WebSocket(new URL("socket", location.href.replace(/^http/, "ws")));
socket.binaryType = "arraybuffer";
socket.onmessage = async ({ data }) => {
  let head = {};
  try {
    head = unpack(data);
    const operation = operations[head.op];
    if (!operation) throw new Error(`unknown operation ${head.op}`);
    const [answer, tensors] = await operation(head);
    socket.send(pack({ id: head.id, ...answer }, tensors));
  } catch (error) {
    // wasm code throws numbers too
    const text = error?.message ?? String(error);
    socket.send(pack({ id: head.id, error: text, kind: error?.name ?? typeof error }));
  }
};
