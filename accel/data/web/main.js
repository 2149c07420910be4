// The page that accel drives: it takes calls over a WebSocket and answers each.

import * as engine from "./engine.js";
import { fill, pack, unpack } from "./messages.js";
import { probe } from "./probe.js";
import * as view from "./view.js";

const operations = {
  probe: async ({ what }) => [await probe(what)],
  load: async ({ build, threads, watched }) => {
    view.watch(watched);
    engine.load(build, threads);
    return [{ agent: navigator.userAgent }];
  },
  open: async (call) => {
    view.state("loading the model");
    const answer = await engine.open(call);
    view.state("ready");
    return [answer];
  },
  run: async (call) => {
    const [answer, tensors] = await engine.run(call);
    view.timing(answer.ms);
    return [answer, tensors];
  },
  close: async ({ name }) => [await engine.close(name) ?? {}],
  // what a test of the connection needs: its speed, its time limits, and that nothing else can be reached
  echo: async ({ tensors }) => [{}, tensors],
  sleep: async ({ ms }) => [await new Promise((done) => setTimeout(done, ms, {}))],
  reach: async ({ url }) => [await fetch(url).then(({ status }) => ({ reached: true, status }), () => ({ reached: false }))],
  tell: async (call) => [view.told(call)],
};

const socket = new WebSocket(new URL("socket", location.href.replace(/^http/, "ws")));
socket.binaryType = "arraybuffer";
socket.onopen = () => view.state("connected");
socket.onclose = () => view.state("ended: this address does not work again", true);
socket.onmessage = async ({ data }) => {
  let head = {};
  try {
    head = unpack(data);
    fill(head, data);
    const operation = operations[head.op];
    if (!operation) throw new Error(`unknown operation ${head.op}`);
    const [answer, tensors] = await operation(head);
    socket.send(pack({ id: head.id, ...answer }, tensors));
  } catch (error) {
    // wasm code throws numbers too
    const text = error?.message ?? String(error);
    view.state(`failed: ${text}`.slice(0, 200), true);
    socket.send(pack({ id: head.id, error: text, kind: error?.name ?? typeof error }));
  }
};
