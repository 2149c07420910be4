"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NS = "http://www.w3.org/2000/svg";
  const tip = document.getElementById("tip");
  const shapes = { fp32: "●", bf16: "■", fp16: "■", int8: "▲" };
  const engines = [...new Set(data.cells.map((c) => c.engine))];
  const chosenBy = {};
  const spreads = (c) => Boolean(c.q) && c.q[0] < c.q[c.q.length - 1];
  let chosen = data.cells.find(spreads) || data.cells.find((c) => c.q) || null;

  const colour = (engine) => `var(--c${engines.indexOf(engine) % 6})`;
  const shown = () =>
    data.cells.filter((c) => Object.entries(chosenBy).every(([axis, value]) => !value || String(c[axis]) === value));
  const name = (c) => c.label || c.key;
  const digits = (v) => (v === null || v === undefined ? "" : v !== 0 && (v >= 1e6 || v < 1e-3) ? (+v).toExponential(2).replace(/\.?0*e/, "e") : String(+v.toPrecision(4)));

  function el(parent, tag, attributes = {}, text) {
    const node = document.createElementNS(NS, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  }
  function html(parent, tag, attributes = {}, text) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  }
  function canvas(id, height, label) {
    const box = document.querySelector(`[data-plot="${id}"]`);
    box.replaceChildren();
    const width = Math.max(260, Math.round(box.clientWidth || 700));
    const svg = el(box, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    return { box, svg, width, height };
  }
  function empty(id, text) {
    const box = document.querySelector(`[data-plot="${id}"]`);
    box.replaceChildren();
    html(box, "p", { class: "note" }, text);
  }
  function explain(node, lines, onClick) {
    const text = lines.filter(Boolean).join("\n");
    node.setAttribute("tabindex", "0");
    node.classList.add("hit");
    el(node, "title", {}, text);
    const place = (x, y) => {
      tip.textContent = text;
      tip.hidden = false;
      const w = tip.offsetWidth, h = tip.offsetHeight;
      tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - w - 4))}px`;
      tip.style.top = `${y + 16 + h > innerHeight ? Math.max(4, y - h - 12) : y + 16}px`;
    };
    node.addEventListener("pointermove", (e) => place(e.clientX, e.clientY));
    node.addEventListener("pointerleave", () => (tip.hidden = true));
    node.addEventListener("focus", () => {
      const r = node.getBoundingClientRect();
      if (node.matches(":focus-visible")) place(r.left + r.width / 2, r.top);
    });
    node.addEventListener("blur", () => (tip.hidden = true));
    if (onClick) {
      node.addEventListener("click", onClick);
      node.addEventListener("keydown", (e) => (e.key === "Enter" || e.key === " ") && (e.preventDefault(), onClick()));
    }
  }

  // scales: value -> pixel, with round ticks
  function scale(values, from, to, log) {
    let low = Math.min(...values), high = Math.max(...values);
    if (log) {
      low = Math.log10(low); high = Math.log10(high);
      const room = Math.max((high - low) * 0.06, 0.05);
      low -= room; high += room;
    } else {
      const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
      low = low >= 0 ? Math.max(0, low - room) : low - room;
      high += room;
    }
    const map = (v) => from + (((log ? Math.log10(v) : v) - low) / (high - low)) * (to - from);
    [map.low, map.high] = log ? [10 ** low, 10 ** high] : [low, high];
    map.ticks = (count) => {
      if (log) {
        const all = [];
        for (let e = Math.floor(low); e <= Math.ceil(high); e++) for (const m of [1, 2, 5]) all.push(m * 10 ** e);
        let inside = all.filter((v) => Math.log10(v) >= low && Math.log10(v) <= high);
        if (inside.length > count) inside = inside.filter((v) => Math.abs(Math.log10(v) % 1) < 1e-9 || Math.abs(Math.abs(Math.log10(v) % 1) - 1) < 1e-9);
        while (inside.length > count) inside = inside.filter((_, i) => i % 2 === 0);
        if (inside.length >= 2) return inside;
        return [10 ** (low + (high - low) * 0.15), 10 ** ((low + high) / 2), 10 ** (high - (high - low) * 0.15)].map((v) => +v.toPrecision(3));
      }
      const step = 10 ** Math.floor(Math.log10((high - low) / count));
      const size = [1, 2, 5, 10].map((m) => m * step).find((s) => (high - low) / s <= count);
      const found = [];
      for (let v = Math.ceil(low / size) * size; v <= high; v += size) found.push(+v.toPrecision(10));
      return found;
    };
    return map;
  }
  function axis(svg, map, at, from, to, horizontal, title, count) {
    for (const v of map.ticks(count)) {
      const p = map(v);
      if (horizontal) {
        el(svg, "line", { class: "grid", x1: p, x2: p, y1: from, y2: to });
        el(svg, "text", { class: "soft", x: p, y: at + 15, "text-anchor": "middle" }, digits(v));
      } else {
        el(svg, "line", { class: "grid", y1: p, y2: p, x1: from, x2: to });
        el(svg, "text", { class: "soft", x: at - 6, y: p + 4, "text-anchor": "end" }, digits(v));
      }
    }
    if (horizontal) el(svg, "text", { class: "soft", x: svg.viewBox.baseVal.width / 2, y: at + 32, "text-anchor": "middle" }, title);
    else el(svg, "text", { class: "soft", x: 4, y: 12 }, title);
  }
  function mark(svg, c, x, y, r = 6) {
    const shape = shapes[c.precision] || "●";
    const attributes = { class: `point${c === chosen ? " chosen" : ""}`, fill: colour(c.engine) };
    const g = el(svg, "g", {});
    el(g, "circle", { cx: x, cy: y, r: 14, fill: "transparent" });
    if (shape === "■") el(g, "rect", { ...attributes, x: x - r * 0.85, y: y - r * 0.85, width: r * 1.7, height: r * 1.7 });
    else if (shape === "▲") el(g, "path", { ...attributes, d: `M${x} ${y - r * 1.15}L${x + r} ${y + r * 0.75}L${x - r} ${y + r * 0.75}Z` });
    else el(g, "circle", { ...attributes, cx: x, cy: y, r });
    return g;
  }
  function legend(box, cells, withShapes = true) {
    const line = html(box, "div", { class: "legend" });
    for (const engine of engines.filter((e) => cells.some((c) => c.engine === e)))
      html(line, "span", { style: `--mark:${colour(engine)}` }, engine || "other");
    if (withShapes)
      for (const precision of [...new Set(cells.map((c) => c.precision))])
        html(line, "span", { class: "shape", "data-shape": shapes[precision] || "●" }, precision);
  }
  const facts = (c) => [
    name(c), `${digits(c.latency_ms)} ms${c.low_ms ? ` [${digits(c.low_ms)}, ${digits(c.high_ms)}]` : ""}`,
    c.throughput && `${digits(c.throughput)} per second`, c.memory_mb && `${digits(c.memory_mb)} MB`,
    c.cosine !== null && `cosine ${c.cosine.toFixed(6)}`, c.noise && `measurement: ${c.noise}`, c.cost && `${digits(c.cost)} per million`,
  ];
  function choose(c) { chosen = c; draw(); }

  function boxes() {
    const cells = shown().filter((c) => c.q).sort((a, b) => a.latency_ms - b.latency_ms);
    if (!cells.length) return empty("boxes", "No samples are kept of these cells.");
    const row = 30, top = 6, bottom = 38;
    const { box, svg, width, height } = canvas("boxes", top + bottom + cells.length * row, "Distribution of every cell");
    const narrow = width < 560, left = narrow ? 8 : Math.min(330, width * 0.4);
    const at = (c, s) => c.q[Math.round(s * (c.q.length - 1))];
    const x = scale(cells.flatMap((c) => [at(c, 0.05), at(c, 0.95)]), left + 8, width - 12, true);
    axis(svg, x, height - bottom, top, height - bottom, true, "ms (logarithmic)", narrow ? 4 : 8);
    cells.forEach((c, i) => {
      const y = top + i * row;
      const g = el(svg, "g", { class: `row${c === chosen ? " chosen" : ""}` });
      el(g, "rect", { class: "back", x: 0, y, width, height: row });
      const label = el(g, "text", { x: 6, y: narrow ? y + 11 : y + 19, "font-size": narrow ? 11 : 12 }, name(c));
      const mid = narrow ? y + 21 : y + row / 2, half = narrow ? 5 : 7;
      if (!narrow) while (label.getComputedTextLength && label.getComputedTextLength() > left - 12 && label.textContent.length > 8) label.textContent = `${label.textContent.slice(0, -2).trimEnd()}…`;
      el(g, "line", { x1: x(at(c, 0.05)), x2: x(at(c, 0.95)), y1: mid, y2: mid, stroke: colour(c.engine), "stroke-width": 1.5 });
      el(g, "rect", { x: x(at(c, 0.25)), width: Math.max(1.5, x(at(c, 0.75)) - x(at(c, 0.25))), y: mid - half, height: 2 * half, fill: colour(c.engine), opacity: 0.55 });
      el(g, "line", { x1: x(c.latency_ms), x2: x(c.latency_ms), y1: mid - half - 2, y2: mid + half + 2, stroke: "var(--fg)", "stroke-width": 2 });
      explain(g, facts(c), () => choose(c));
    });
    legend(box, cells, false);
  }

  function detail() {
    const c = chosen && shown().includes(chosen) ? chosen : shown().find((k) => k.q);
    if (!c || !c.q) return empty("detail", "");
    if (!spreads(c)) return empty("detail", `${name(c)}: every run took ${c.q[0]} ms, or there was only one.`);
    const { box, svg, width, height } = canvas("detail", 190, `All samples of ${name(c)}`);
    const left = 44, bottom = 42, top = 8;
    const lines = (c.medians || []).length ? ". Band: interval of the median; short marks: medians of the processes." : ".";
    const title = html(box, "p", { class: "note" });
    html(title, "strong", {}, name(c));
    title.append(`: share of runs below a time${lines}`);
    box.prepend(title);
    const last = c.q.length - 1, cut = Math.max(1, Math.round(0.995 * last));
    const x = scale([c.q[0], c.q[cut]], left, width - 14, false);
    const y = (s) => top + (1 - s) * (height - top - bottom);
    axis(svg, x, height - bottom, top, height - bottom, true, "ms, up to the 99.5 % quantile", width < 560 ? 4 : 8);
    for (const s of [0, 0.25, 0.5, 0.75, 1]) {
      el(svg, "line", { class: "grid", x1: left, x2: width - 14, y1: y(s), y2: y(s) });
      el(svg, "text", { class: "soft", x: left - 6, y: y(s) + 4, "text-anchor": "end" }, `${100 * s} %`);
    }
    const d = c.q.slice(0, cut + 1).map((v, i) => `${i ? "L" : "M"}${x(v).toFixed(1)} ${y(i / last).toFixed(1)}`).join("");
    el(svg, "path", { d, fill: "none", stroke: colour(c.engine), "stroke-width": 2 });
    if (c.low_ms && c.high_ms)
      el(svg, "rect", { x: x(c.low_ms), width: Math.max(1, x(c.high_ms) - x(c.low_ms)), y: y(1), height: y(0) - y(1), fill: colour(c.engine), opacity: 0.18 });
    for (const m of c.medians || []) if (x(m) <= width - 14) el(svg, "line", { x1: x(m), x2: x(m), y1: y(0.54), y2: y(0.46), stroke: "var(--fg)", "stroke-width": 2 });
  }

  function accuracy() {
    const cells = shown().filter((c) => c.cosine !== null && c.latency_ms);
    if (!cells.length) return empty("accuracy", "No output of these cells was compared with fp32 torch.");
    const { box, svg, width, height } = canvas("accuracy", 340, "Speed against accuracy");
    const left = 62, bottom = 42, top = 20, floor = 1e-7;
    const error = (c) => Math.max(floor, 1 - c.cosine), item = (c) => c.latency_ms / (c.batch || 1);
    const x = scale(cells.map(item), left, width - 16, true);
    const y = scale([...cells.map(error), floor, 1e-5], height - bottom, top, true);
    axis(svg, x, height - bottom, top, height - bottom, true, "ms per item (logarithmic)", width < 560 ? 4 : 8);
    axis(svg, y, left, left, width - 16, false, "1 - cosine", 8);
    el(svg, "line", { x1: left, x2: width - 16, y1: y(1e-5), y2: y(1e-5), stroke: "var(--c2)", "stroke-dasharray": "5 4" });
    el(svg, "text", { class: "soft", x: width - 18, y: y(1e-5) - 5, "text-anchor": "end" }, "exact class below");
    for (const c of cells) explain(mark(svg, c, x(item(c)), y(error(c))), facts(c), () => choose(c));
    legend(box, cells);
  }

  function roofline() {
    const note = document.getElementById("roof-note");
    const cells = shown().filter((c) => c.gflops && c.intensity);
    note.textContent = "Arithmetic rate against operations per byte, counting the weights once per run: the least that has to be moved. Lines: what accel detect --deep measured.";
    if (!cells.length) return empty("roofline", "No cell tells both its operations and the size of its weights.");
    const roofs = data.roofs.filter((r) => cells.some((c) => c.fingerprint === r.fingerprint && c.device === r.device));
    const { box, svg, width, height } = canvas("roofline", 340, "Roofline");
    const left = 56, bottom = 42, top = 20;
    const xs = cells.map((c) => c.intensity);
    xs.push(Math.min(...xs) / 4);
    for (const r of roofs) if (r.gb_per_s) xs.push(Math.max(...Object.values(r.gflops)) / r.gb_per_s);
    const x = scale(xs, left, width - 16, true);
    const y = scale([...cells.map((c) => c.gflops), ...roofs.flatMap((r) => Object.values(r.gflops))], height - bottom, top, true);
    axis(svg, x, height - bottom, top, height - bottom, true, "operations per byte (logarithmic)", width < 560 ? 4 : 8);
    axis(svg, y, left, left, width - 16, false, "GFLOP/s", 8);
    const right = width - 16, levels = [];
    for (const r of roofs)
      for (const [precision, peak] of Object.entries(r.gflops)) {
        let line = `M${left} ${y(peak)}L${right} ${y(peak)}`;
        const knee = peak / (r.gb_per_s || Infinity), start = Math.max(x.low, y.low / (r.gb_per_s || Infinity));
        if (knee > start) line = `M${x(start)} ${y(start * r.gb_per_s)}L${x(knee)} ${y(peak)}L${right} ${y(peak)}`;
        el(svg, "path", { d: line, fill: "none", stroke: "var(--soft)", "stroke-width": 1.5 });
        const level = y(peak) - 4;
        if (levels.every((l) => Math.abs(l - level) > 11)) {
          levels.push(level);
          el(svg, "text", { class: "soft", x: right, y: level, "text-anchor": "end" }, `${r.device} ${precision} ${digits(peak)}`);
        }
      }
    for (const c of cells)
      explain(mark(svg, c, x(c.intensity), y(c.gflops)), [...facts(c), `${digits(c.gflops)} GFLOP/s at ${digits(c.intensity)} per byte`], () => choose(c));
    legend(box, cells);
    if (!roofs.length) html(box, "p", { class: "note" }, "The roofs of these devices are not measured: accel detect --deep.");
  }

  function trend() {
    const select = document.getElementById("series");
    const list = document.getElementById("changes");
    list.replaceChildren();
    const s = data.series[select.value || 0];
    if (!s || s.points.length < 2) return empty("trend", "There are too few results for a trend.");
    const { svg, width, height } = canvas("trend", 280, `Trend of ${s.label}`);
    const left = 56, bottom = 42, top = 20, right = width - 16;
    const y = scale(s.points.flatMap((p) => [p.ms, p.low || p.ms, p.high || p.ms].filter((v) => v < 4 * p.ms)), height - bottom, top, false);
    const x = (i) => left + 10 + (i / Math.max(1, s.points.length - 1)) * (right - left - 20);
    axis(svg, y, left, left, right, false, "ms", 6);
    const every = width < 560 ? s.points.length : Math.max(1, Math.ceil(s.points.length / 7));
    s.points.forEach((p, i) => i % every === 0 && (i === 0 || i < s.points.length - every * 0.8) && el(svg, "text", { class: "soft", x: x(i), y: height - bottom + 18, "text-anchor": i ? "middle" : "start" }, p.day));
    el(svg, "text", { class: "soft", x: right, y: height - bottom + 18, "text-anchor": "end" }, s.points[s.points.length - 1].day);
    for (const p of s.changes) el(svg, "line", { class: "change", x1: x(p.index - 0.5), x2: x(p.index - 0.5), y1: top, y2: height - bottom });
    let start = 0;
    for (const level of [...s.changes.map((c) => ({ end: c.index, ms: c.before_ms })), { end: s.points.length, ms: s.level }]) {
      el(svg, "line", { x1: x(start), x2: x(level.end - 1), y1: y(level.ms), y2: y(level.ms), stroke: "var(--accent)", "stroke-width": 2, opacity: 0.6 });
      start = level.end;
    }
    s.points.forEach((p, i) => {
      const g = el(svg, "g", {});
      el(g, "circle", { cx: x(i), cy: y(p.ms), r: 9, fill: "transparent" });
      if (p.low && p.high && p.high < 4 * p.ms) el(g, "line", { x1: x(i), x2: x(i), y1: y(p.low), y2: y(p.high), stroke: "var(--soft)" });
      el(g, "circle", { class: "point", cx: x(i), cy: y(p.ms), r: s.points.length > 120 ? 2.5 : 4, fill: "var(--c0)" });
      explain(g, [p.day, `${digits(p.ms)} ms`, p.commit && `commit ${p.commit}`, p.run && `run ${p.run}`]);
    });
    for (const c of s.changes) {
      const what = c.differences.map((d) => `${d.what}: ${d.before} → ${d.after}`).join("; ") || "nothing that accel knows of changed there";
      html(list, "li", {}, `${c.day}${c.until === c.day ? "" : ` to ${c.until}`}: ${c.ratio > 1 ? "+" : ""}${(100 * (c.ratio - 1)).toFixed(1)} %, ${digits(c.before_ms)} to ${digits(c.after_ms)} ms (p ${digits(c.p)}). ${what}`);
    }
    if (!s.changes.length) html(list, "li", {}, "no change of level");
  }

  function table() {
    const wanted = new Set(shown().map((c) => c.id));
    for (const tr of document.querySelectorAll("#cells tbody tr")) {
      tr.hidden = !wanted.has(tr.dataset.id);
      tr.classList.toggle("chosen", Boolean(chosen) && tr.dataset.id === chosen.id);
    }
  }
  function draw() { tip.hidden = true; boxes(); detail(); accuracy(); roofline(); trend(); table(); }

  function controls() {
    const form = document.getElementById("filters");
    form.addEventListener("submit", (e) => e.preventDefault());
    for (const axis of ["model", "device", "engine", "precision", "batch"]) {
      const values = [...new Set(data.cells.map((c) => String(c[axis] ?? "")))].filter(Boolean);
      if (values.length < 2) continue;
      const select = html(html(form, "label", {}, axis), "select", { name: axis });
      html(select, "option", { value: "" }, "all");
      for (const value of values) html(select, "option", { value }, value);
      select.addEventListener("change", () => { chosenBy[axis] = select.value; draw(); });
    }
    const series = document.getElementById("series");
    data.series.forEach((s, i) => html(series, "option", { value: i }, `${s.label} (${s.points.length}${s.changes.length ? `, changed ${s.changes.length} times` : ""})`));
    series.addEventListener("change", trend);
    document.getElementById("theme").addEventListener("click", () => {
      const root = document.documentElement;
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
    });
    document.querySelectorAll("#cells th").forEach((th, column) => {
      const button = html(th, "button", { type: "button" }, th.textContent);
      th.firstChild !== button && th.removeChild(th.firstChild);
      button.addEventListener("click", () => {
        const up = th.getAttribute("aria-sort") !== "ascending";
        document.querySelectorAll("#cells th").forEach((o) => o.removeAttribute("aria-sort"));
        th.setAttribute("aria-sort", up ? "ascending" : "descending");
        const body = document.querySelector("#cells tbody");
        const value = (tr) => tr.children[column].dataset.value ?? tr.children[column].textContent;
        const numeric = th.classList.contains("number");
        const order = (a, b) => numeric ? (value(a) === "" ? Infinity : +value(a)) - (value(b) === "" ? Infinity : +value(b)) : value(a).localeCompare(value(b));
        body.append(...[...body.children].sort((a, b) => (up ? order(a, b) : order(b, a))));
      });
    });
    document.querySelectorAll("#cells tbody tr").forEach((tr) => tr.addEventListener("click", () => choose(data.cells.find((c) => c.id === tr.dataset.id) || chosen)));
  }
  controls();
  draw();
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(draw, 120); });
  addEventListener("beforeprint", draw);
})();
