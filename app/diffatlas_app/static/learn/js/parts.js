// The pieces that scenes are made of: elements, sliders, choices, pictures, plots.
import { drawSlice, drawSurface, surfaceOf } from "./draw.js";
import { sliceOf } from "./volume.js";

/** An element with attributes (functions become listeners) and children. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

let lastId = 0;
export const newId = () => `e${++lastId}`;

/** A slider with its name and its value in words. `show`: value to text. Returns {box, input, set}. */
export function slider({ name, low, high, step, value, show, input }) {
  const id = newId();
  const words = el("output", { for: id }, show(value));
  const field = el("input", { id, type: "range", min: low, max: high, step, value, "aria-valuetext": show(value) });
  const tell = () => {
    words.textContent = show(Number(field.value));
    field.setAttribute("aria-valuetext", words.textContent);
  };
  field.addEventListener("input", () => {
    tell();
    input(Number(field.value));
  });
  const set = (v) => {
    field.value = v;
    tell();
  };
  return { box: el("div", { class: "slider" }, el("label", { for: id }, name), words, field), input: field, set };
}

/** A row of buttons of which one is chosen. `options`: [key, text]. */
export function choice({ name, options, value, input }) {
  const group = newId();
  const fields = options.map(([key, text]) => {
    const field = el("input", { type: "radio", name: group, value: key, checked: key === value, change: () => input(key) });
    return el("label", {}, field, el("span", {}, text));
  });
  return el("div", { class: "choice", role: "radiogroup", "aria-label": name }, el("span", { class: "choice-name" }, name), ...fields);
}

export function button(text, click, kind = "") {
  return el("button", { type: "button", class: kind, click }, text);
}

/** A picture with its caption; `draw` takes what `drawSlice` takes. */
export function slicePicture(caption, alt = caption) {
  const canvas = el("canvas", { role: "img", "aria-label": alt, width: 320, height: 320 });
  const words = el("figcaption", {}, caption);
  const note = el("p", { class: "note" });
  const box = el("figure", { class: "picture" }, el("div", { class: "frame" }, canvas, el("i", { class: "letter left" }, "R"), el("i", { class: "letter right" }, "L")), words, note);
  return { box, canvas, words, note, draw: (what) => drawSlice(canvas, what) };
}

/** Axial slice of a volume, or null. */
export const axial = (volume, z) => (volume ? sliceOf(volume, "axial", z) : null);

/** A label map in 3-D, turned by dragging or by the arrow keys. */
export function surfacePicture(caption, help, colors) {
  const canvas = el("canvas", { role: "img", tabindex: 0, "aria-label": `${caption}. ${help}`, width: 300, height: 300, class: "solid" });
  let points = [], turn = 0.5, tilt = 0.2, held = null;
  const redraw = () => drawSurface(canvas, points, colors, turn, tilt, [16, 16, 16]);
  const turnBy = (a, b) => {
    turn += a;
    tilt = Math.max(-1.5, Math.min(1.5, tilt + b));
    redraw();
  };
  canvas.addEventListener("pointerdown", (event) => {
    held = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    turnBy((event.clientX - held[0]) / 80, (event.clientY - held[1]) / 80);
    held = [event.clientX, event.clientY];
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { held = null; });
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-0.2, 0], ArrowRight: [0.2, 0], ArrowUp: [0, -0.2], ArrowDown: [0, 0.2] }[event.key];
    if (!by) return;
    event.preventDefault();
    turnBy(...by);
  });
  const box = el("figure", { class: "picture" }, el("div", { class: "frame" }, canvas), el("figcaption", {}, caption), el("p", { class: "note" }, help));
  return { box, show: (labels) => { points = surfaceOf(labels); redraw(); } };
}

const SVG = "http://www.w3.org/2000/svg";
function svg(tag, attributes, text = null) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

/**
 * Lines over a common x. `series`: {name, values (null: a gap), color, wide}. `cursor`: x to mark. `alt`: what it says.
 * Names stand at the lines' ends, so that colour alone says nothing. The axis begins at `low`, or lower where a value does.
 */
export function lines({ x, series, low = 0, high = 1, cursor = null, xName, yName, alt, dots = false, named = true }) {
  const [w, h, l, r, t, b] = [420, 210, 40, named ? 118 : 16, 24, 34];
  low = Math.min(low, ...series.flatMap((one) => one.values).filter((v) => v !== null).map((v) => Math.floor(5 * v) / 5));
  const box = svg("svg", { viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": alt, class: "plot" });
  const atX = (v) => l + ((v - x[0]) / (x[x.length - 1] - x[0] || 1)) * (w - l - r);
  const atY = (v) => t + ((high - v) / (high - low)) * (h - t - b);
  for (let i = 0; i <= 4; i++) {
    const v = low + ((high - low) * i) / 4;
    box.append(svg("line", { x1: l, x2: w - r, y1: atY(v), y2: atY(v), class: "grid" }));
    box.append(svg("text", { x: l - 6, y: atY(v) + 4, class: "tick end" }, String(Math.round(v * 100) / 100)));
  }
  for (const v of [x[0], x[Math.floor((x.length - 1) / 2)], x[x.length - 1]]) {
    box.append(svg("text", { x: atX(v), y: h - b + 15, class: "tick middle" }, String(Math.round(v * 100) / 100)));
  }
  box.append(svg("text", { x: (l + w - r) / 2, y: h - 4, class: "axis middle" }, xName), svg("text", { x: 4, y: 13, class: "axis" }, yName));
  let taken = [];
  for (const { name, values, color, wide } of series) {
    const path = values.map((v, i) => (v === null ? "" : `${i && values[i - 1] !== null ? "L" : "M"}${atX(x[i]).toFixed(1)} ${atY(v).toFixed(1)}`)).join("");
    box.append(svg("path", { d: path, fill: "none", stroke: color, "stroke-width": wide ? 3 : 1.8 }));
    if (dots) values.forEach((v, i) => v !== null && box.append(svg("circle", { cx: atX(x[i]), cy: atY(v), r: 3, fill: color })));
    if (named) {
      let y = atY(values[values.length - 1] ?? low) + 4;
      while (taken.some((other) => Math.abs(other - y) < 13)) y += 2;
      taken = [...taken, y];
      box.append(svg("rect", { x: w - r + 6, y: y - 8, width: 8, height: 8, fill: color }));
      box.append(svg("text", { x: w - r + 18, y, class: "tick" }, name));
    }
  }
  if (cursor !== null) box.append(svg("line", { x1: atX(cursor), x2: atX(cursor), y1: t, y2: h - b, class: "cursor" }));
  return box;
}

/** Points of groups along one axis: {name, color, values, marks}; marks are drawn large. */
export function strips({ groups, low, high, xName, alt }) {
  const [w, l, r, t, line] = [420, 112, 14, 8, 30];
  const h = t + groups.length * line + 36;
  const box = svg("svg", { viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": alt, class: "plot" });
  const atX = (v) => l + ((v - low) / (high - low)) * (w - l - r);
  groups.forEach(({ name, color, values, marks }, row) => {
    const y = t + row * line + line / 2;
    box.append(svg("line", { x1: l, x2: w - r, y1: y, y2: y, class: "grid" }), svg("text", { x: l - 8, y: y + 4, class: "tick end" }, name));
    values.forEach((v, i) => box.append(svg("circle", { cx: atX(Math.min(v, high)), cy: y - 5 + ((i * 7) % 11), r: 2.2, fill: color, opacity: 0.45 })));
    marks.forEach((v) => box.append(svg("path", { d: `M${atX(Math.min(v, high))} ${y - 11}v22`, class: "mark" })));
  });
  for (const v of [low, (low + high) / 2, high]) box.append(svg("text", { x: atX(v), y: h - 20, class: "tick middle" }, String(Math.round(v))));
  box.append(svg("text", { x: (l + w - r) / 2, y: h - 4, class: "axis middle" }, xName));
  return box;
}

/** Horizontal bars: {name, value in [0, 1], color, guess}. */
export function bars(rows, alt) {
  return el(
    "div",
    { class: "bars", role: "img", "aria-label": alt },
    ...rows.map(({ name, value, text, guess, color }) =>
      el("div", { class: "bar" }, el("span", {}, name), el("i", { style: `--value:${value};--color:${color ?? "var(--accent)"}` }, guess === undefined ? null : el("b", { style: `--guess:${guess}` })), el("span", { class: "figure" }, text ?? value.toFixed(2))),
    ),
  );
}

/** Fraction as the language writes it. */
export function number(value, digits = 2) {
  return value.toLocaleString(document.documentElement.lang || "en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export const percent = (value) => `${Math.round(100 * value)} %`;
export const rgb = (c) => `rgb(${c.join(" ")})`;

/** The structures with their colours. */
export function legend(structures, names) {
  return el("ul", { class: "legend" }, ...structures.map((s) => el("li", {}, el("i", { style: `background:${rgb(s.color)}` }), names[s.name] ?? s.name)));
}

/**
 * A square to brush on, by mouse, finger, or arrow keys and space. `radius()`: of the brush, in parts of `side`.
 * `moved(region, column, row)` gets Uint8Array side x side of 0 and 1 and where the brush is; true from it ends the stroke.
 */
export function brushOver(canvas, side, radius, moved) {
  const region = new Uint8Array(side * side);
  const ring = el("i", { class: "ring", hidden: true });
  let down = false, here = [side / 2, side / 2];
  const show = () => {
    const r = radius();
    ring.hidden = false;
    Object.assign(ring.style, { left: `${((here[0] - r) / side) * 100}%`, top: `${((here[1] - r) / side) * 100}%`, width: `${((2 * r) / side) * 100}%` });
  };
  const dab = () => {
    const [cx, cy] = here, r = radius();
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) if ((x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2 <= r ** 2) region[x + side * y] = 1;
    }
    if (moved(region, cx, cy)) down = false;
  };
  const placeOf = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * side, ((event.clientY - box.top) / box.height) * side];
  };
  canvas.classList.add("brush");
  canvas.tabIndex = 0;
  canvas.parentElement.append(ring);
  canvas.addEventListener("pointerdown", (event) => {
    down = true;
    canvas.setPointerCapture(event.pointerId);
    here = placeOf(event);
    dab();
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x0, y0] = here, [x1, y1] = placeOf(event);
    // A fast hand leaves no gaps.
    const parts = down ? Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / radius())) : 1;
    for (let i = 1; i <= parts; i++) {
      here = [x0 + ((x1 - x0) * i) / parts, y0 + ((y1 - y0) * i) / parts];
      if (down) dab();
    }
    if (event.pointerType === "mouse") show();
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { down = false; });
  canvas.addEventListener("pointerleave", () => { ring.hidden = document.activeElement !== canvas; });
  canvas.addEventListener("focus", () => { if (canvas.matches(":focus-visible")) show(); });
  canvas.addEventListener("blur", () => { ring.hidden = true; });
  canvas.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 8 : 2;
    const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step], " ": [0, 0] }[event.key];
    if (!by) return;
    event.preventDefault();
    here = here.map((v, i) => Math.max(0.5, Math.min(side - 0.5, v + by[i])));
    show();
    if (event.key === " ") dab();
  });
  return { region, clear: () => region.fill(0) };
}
