"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const bytesOf = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const labels = JSON.parse(new TextDecoder().decode(bytesOf(data.labels)));
const KINDS = {u16: Uint16Array, u32: Uint32Array};
const unpack = packed => new KINDS[packed.kind](bytesOf(packed.data).buffer);
const NONE = {u16: 0xffff, u32: 0xffffffff};
const byId = id => document.getElementById(id);
const text = byId("text"), space = byId("space"), lines = byId("lines"), panel = byId("matches");
const LINE = 22, cache = new Map();
let selected = -1, starts = [0], shown = "", head = null, weightOf = new Map();

function current() {
  const layer = data.layers[byId("layer").value | 0], number = byId("head").value | 0;
  const key = `${byId("layer").value}.${number}`;
  if (!cache.has(key)) {
    const packed = layer.heads[number];
    cache.set(key, {layer, keys: unpack(packed.keys), none: NONE[packed.keys.kind],
      weights: unpack(packed.weights), buckets: packed.buckets.map(unpack)});
  }
  return cache.get(key);
}

function colour(bucket) {  // golden angle: neighbours in number are far apart in colour
  return `hsl(${(bucket * 137.508) % 360} 70% var(--light) / .5)`;
}

function lay() {  // where lines begin, for as many columns as there is room for
  const columns = Math.max(Math.floor((text.clientWidth - 24) / cell()), 16);
  starts = [0];
  for (let i = 0, used = 0; i < labels.length; i++) {
    const size = labels[i].length;
    if (used && used + size > columns) { starts.push(i); used = 0; }
    used += size;
    if (labels[i].includes("\u23ce")) { starts.push(i + 1); used = 0; }
  }
  if (starts.at(-1) >= labels.length && starts.length > 1) starts.pop();
  space.style.height = `${starts.length * LINE + 16}px`;
  shown = "";
}

function cell() {
  const probe = document.createElement("span");
  probe.className = "t"; probe.textContent = "mmmmmmmmmm";
  lines.append(probe);
  const width = probe.getBoundingClientRect().width / 10;
  probe.remove();
  return Math.max(width, 4);
}

function lineOf(token) {
  let low = 0, high = starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= token) low = middle; else high = middle - 1;
  }
  return low;
}

function draw() {
  const first = Math.max(Math.floor(text.scrollTop / LINE) - 4, 0);
  const last = Math.min(Math.ceil((text.scrollTop + text.clientHeight) / LINE) + 4, starts.length);
  const round = byId("round").value | 0;
  const state = `${first} ${last} ${selected} ${byId("layer").value} ${byId("head").value} ${round}`;
  if (state === shown) return;
  shown = state;
  const fresh = document.createDocumentFragment(), buckets = head.buckets[round];
  for (let line = first; line < last; line++) {
    const row = document.createElement("div");
    row.className = "line"; row.style.top = `${line * LINE + 8}px`;
    row.setAttribute("role", "presentation");
    const end = line + 1 < starts.length ? starts[line + 1] : labels.length;
    for (let i = starts[line]; i < end; i++) row.append(token(i, buckets));
    fresh.append(row);
  }
  lines.replaceChildren(fresh);
  text.setAttribute("aria-activedescendant", selected < 0 ? "" : `t${selected}`);
}

function token(i, buckets) {
  const one = document.createElement("span");
  one.className = "t"; one.id = `t${i}`; one.dataset.i = i;
  one.textContent = labels[i];
  one.setAttribute("role", "option");
  one.setAttribute("aria-selected", i === selected);
  if (buckets) { one.style.background = colour(buckets[i]); one.title = `token ${i}, bucket ${buckets[i]}`; }
  if (i === selected) one.classList.add("on");
  if (weightOf.has(i)) {
    one.classList.add("match");
    one.style.outlineColor = `color-mix(in srgb, var(--c1) ${Math.round(35 + 65 * weightOf.get(i))}%, transparent)`;
  }
  return one;
}

function around(i, before, after) {
  let made = "";
  for (let k = Math.max(i - before, 0); k < Math.min(i + after + 1, labels.length); k++) made += labels[k];
  return made;
}

function span(kind, content) {
  const made = document.createElement("span");
  made.className = kind; made.textContent = content;
  return made;
}

function select(i, scroll = true) {
  selected = Math.min(Math.max(i, 0), labels.length - 1);
  weightOf = new Map();
  const count = head.keys.length / labels.length, rows = [], layer = head.layer;
  for (let m = 0; m < count; m++) {
    const key = head.keys[selected * count + m];
    if (key === head.none) break;
    const weight = head.weights[selected * count + m] / 65535;
    weightOf.set(key, weight);
    rows.push(matched(key, weight, layer));
  }
  byId("about").textContent = `Token ${selected}: \u201c${labels[selected]}\u201d in \u201c${around(selected, 24, 0)}\u201d` +
    (selected + 1 < labels.length ? `; next comes \u201c${labels[selected + 1]}\u201d.` : ".");
  panel.replaceChildren(...rows);
  byId("none").hidden = rows.length > 0;
  byId("none").textContent = layer.own ? "It is offered nothing, and takes its own value." : "It attends to nothing.";
  if (scroll) {
    const top = lineOf(selected) * LINE;
    if (top < text.scrollTop || top + 2 * LINE > text.scrollTop + text.clientHeight)
      text.scrollTop = top - text.clientHeight / 3;
  }
  shown = "";
  draw();
}

function matched(key, weight, layer) {
  const row = document.createElement("li"), go = document.createElement("button");
  const bar = span("bar", ""), percent = `${(100 * weight).toFixed(weight < .1 ? 2 : 1)} %`;
  bar.style.width = `${Math.max(100 * weight, 1)}%`;
  const words = document.createElement("span");
  words.className = "words";
  words.append(span("", around(key - 1, 15, 0)), span("hit", labels[key]));
  if (layer.successors) words.append(span("next", key + 1 < labels.length ? labels[key + 1] : "nothing"));
  words.append(span("", around(key + (layer.successors ? 2 : 1), 0, 9)));
  const away = Math.abs(selected - key), side = key < selected ? "back" : "ahead";
  go.append(bar, words, span("far", `${percent}, ${away.toLocaleString("en")} ${side}`));
  go.setAttribute("aria-label", `token ${key}, ${percent} of the weight, ${away} tokens ${side}` +
    (layer.successors && key + 1 < labels.length ? `, delivers ${labels[key + 1]}` : ""));
  go.addEventListener("click", () => { select(key); text.focus(); });
  row.append(go);
  return row;
}

function fill(box, names) {
  const kept = box.value;
  box.replaceChildren(...names.map((name, i) => {
    const one = document.createElement("option");
    one.value = i; one.textContent = name;
    return one;
  }));
  if (kept && (kept | 0) < names.length) box.value = kept;
}

function choose() {
  const layer = data.layers[byId("layer").value | 0];
  fill(byId("head"), layer.heads.map((_, i) => `head ${i}`));
  head = current();
  fill(byId("round"), head.buckets.length ? head.buckets.map((_, i) => `round ${i}`) : ["no buckets"]);
  document.querySelectorAll("[data-layer]").forEach(one => { one.hidden = one.dataset.layer !== byId("layer").value; });
  byId("legend").textContent = layer.successors
    ? "Outlined: what the token matches. Underlined in a match: the token behind it, whose value is delivered."
    : "Outlined: what the token matches, whose own value is delivered.";
  if (selected >= 0) select(selected, false); else { shown = ""; draw(); }
}

fill(byId("layer"), data.layers.map(layer => `layer ${layer.number} (${layer.kind})`));
for (const id of ["layer", "head", "round"]) byId(id).addEventListener("change", choose);
text.addEventListener("scroll", () => requestAnimationFrame(draw), {passive: true});
text.addEventListener("click", event => {
  const one = event.target.closest("[data-i]");
  if (one) select(one.dataset.i | 0, false);
});
text.addEventListener("keydown", event => {
  const line = lineOf(Math.max(selected, 0)), column = selected - starts[line];
  const beside = step => {
    const other = Math.min(Math.max(line + step, 0), starts.length - 1);
    const end = (other + 1 < starts.length ? starts[other + 1] : labels.length) - 1;
    return Math.min(starts[other] + column, end);
  };
  const page = Math.max(Math.floor(text.clientHeight / LINE) - 2, 1);
  const moves = {ArrowRight: () => selected + 1, ArrowLeft: () => selected - 1, ArrowDown: () => beside(1),
    ArrowUp: () => beside(-1), PageDown: () => beside(page), PageUp: () => beside(-page), Home: () => 0,
    End: () => labels.length - 1};
  if (moves[event.key]) { event.preventDefault(); select(moves[event.key]()); }
});
new ResizeObserver(() => { const token = starts[Math.floor(text.scrollTop / LINE)] ?? 0; lay();
  text.scrollTop = lineOf(token) * LINE; draw(); }).observe(text);
lay();
choose();
select(Math.min(data.selected, labels.length - 1));
