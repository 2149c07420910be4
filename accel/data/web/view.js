// What a person sees of a run. Only text is ever put into the page, never markup.

const SHOWN = 60;
const times = [];
const facts = new Map();
const element = (id) => document.getElementById(id);
// drawing takes time from what is measured, so that it is done where somebody looks, and a few times a second
const EVERY_MS = 200;
let watched = false;
let drawing = false;

export function watch(on) {
  watched = on;
}

export function state(text, bad = false) {
  element("state").textContent = text;
  element("state").classList.toggle("bad", bad);
}

export function fact(name, value) {
  facts.set(name, value);
  element("facts").replaceChildren(...[...facts].flatMap(([name, value]) => {
    const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    detail.textContent = value;
    return [term, detail];
  }));
}

export function timing(ms) {
  times.push(ms);
  if (drawing || !watched) return;
  drawing = true;
  setTimeout(requestAnimationFrame, times.length > 1 ? EVERY_MS : 0, draw);
}

const written = (ms) => (ms >= 100 ? ms.toFixed(0) : ms.toFixed(1));

function draw() {
  drawing = false;
  const latest = times.slice(-SHOWN);
  const sorted = [...times].sort((a, b) => a - b);
  element("last").textContent = written(times.at(-1));
  element("median").textContent = written(sorted[sorted.length >> 1]);
  element("count").textContent = times.length;
  const most = Math.max(...latest);
  const width = 600 / SHOWN;
  element("chart").replaceChildren(...latest.map((ms, i) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const height = Math.max(2, (92 * ms) / most);
    const place = { x: i * width + 1, y: 96 - height, width: width - 2, height };
    for (const [name, value] of Object.entries(place)) bar.setAttribute(name, value);
    return bar;
  }));
  element("scale").textContent = `tallest bar: ${written(most)} ms, of the latest ${latest.length}`;
}

// what accel says: {model, state, facts: {name: value}, output}
export function told({ model, state: now, facts: more = {}, output }) {
  if (model) {
    element("model").textContent = model;
    document.title = `${model} - accel`;
  }
  for (const [name, value] of Object.entries(more)) fact(name, value);
  if (now) state(now);
  if (output !== undefined) {
    element("output").textContent = output;
    element("output").classList.remove("quiet");
  }
  return {};
}
