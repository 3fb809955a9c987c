// The convergence plots: small multiples over the steps of a run, with axes, a sentence that says what each one shows,
// and a cursor in step with the viewer.

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 84;
const PAD = 3;
const ABOUT = {
  residual:
    "How far the image that the model believes in is from the scan, as a share of the model's gray values: the guidance brings it down.",
  change: "Which share of the structures' voxels changed its label since the step before: near 0 the mask has settled.",
  volumes: "The volume of each structure at every step, in its colour: lines that run flat are decided.",
};
let made = 0;

function element(name, attributes, parent) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.append(node);
  return node;
}

const figure = (value) =>
  value == null ? "–" : value === 0 ? "0" : value >= 100 ? value.toFixed(0) : value.toPrecision(2);

// `choose(index)` is called with the step that the pointer is over.
export class Plots {
  constructor(parent, choose) {
    this.parent = parent;
    this.choose = choose;
    this.plots = [
      { key: "residual", title: "Guidance residual", rows: (m) => [m[0]], about: ABOUT.residual },
      { key: "change", title: "Mask change", rows: (m) => [m[1]], about: ABOUT.change },
      { key: "volumes", title: "Volumes, ml", rows: (m) => m.slice(3), about: ABOUT.volumes },
    ].map((plot) => this.#build(plot));
  }

  #build(plot) {
    const box = document.createElement("figure");
    box.className = "dv-plot";
    box.dataset.plot = plot.key;
    const caption = document.createElement("figcaption");
    const about = `dv-about-${++made}`;
    caption.innerHTML = `<button type="button" class="dv-about" aria-describedby="${about}">${plot.title}</button><output></output>`;
    const tip = document.createElement("p");
    Object.assign(tip, { id: about, className: "dv-tip", textContent: plot.about });
    tip.setAttribute("role", "tooltip");
    const area = document.createElement("div");
    area.className = "dv-area";
    const svg = element(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-describedby": about },
      area,
    );
    area.insertAdjacentHTML(
      "afterbegin",
      '<span class="dv-top" aria-hidden="true"></span><span class="dv-zero" aria-hidden="true">0</span>',
    );
    const steps = document.createElement("p");
    steps.className = "dv-steps";
    steps.setAttribute("aria-hidden", "true");
    steps.innerHTML = "<span>step 1</span><span></span>";
    box.append(caption, tip, area, steps);
    const lines = element("g", { class: "dv-lines" }, svg);
    const cursor = element("line", { class: "dv-cursor", y1: 0, y2: HEIGHT }, svg);
    const point = (event) => {
      const area = svg.getBoundingClientRect();
      const share = (event.clientX - area.left) / area.width;
      this.choose(Math.round(Math.min(Math.max(share, 0), 1) * Math.max(this.total - 1, 1)));
    };
    svg.addEventListener("pointerdown", (event) => {
      svg.setPointerCapture(event.pointerId);
      point(event);
    });
    svg.addEventListener("pointermove", (event) => event.buttons & 1 && point(event));
    this.parent.append(box);
    return {
      ...plot,
      box,
      svg,
      lines,
      cursor,
      output: caption.querySelector("output"),
      top: area.querySelector(".dv-top"),
      last: steps.lastElementChild,
    };
  }

  // `figures`: of every step known, by index; `total` steps; `index`: the one shown; one colour for each structure.
  draw(figures, total, index, scheme) {
    this.total = total;
    const at = (i) => (total > 1 ? (i / (total - 1)) * WIDTH : 0);
    for (const plot of this.plots) {
      const known = [...figures].map(([i, m]) => [i, plot.rows(m)]);
      const all = known.flatMap(([, values]) => values).filter((v) => v != null);
      plot.box.hidden = all.length === 0;
      if (plot.box.hidden) continue;
      const top = Math.max(...all, 1e-9);
      plot.top.textContent = figure(top);
      plot.last.textContent = String(total);
      const up = (v) => HEIGHT - PAD - (v / top) * (HEIGHT - 2 * PAD);
      const count = Math.max(...known.map(([, values]) => values.length));
      plot.lines.replaceChildren();
      for (let k = 0; k < count; k++) {
        const points = known
          .filter(([, v]) => v[k] != null)
          .map(([i, v]) => `${at(i).toFixed(1)},${up(v[k]).toFixed(1)}`);
        if (points.length === 1) points.push(points[0]);
        const color = plot.key === "volumes" && scheme[k] ? `rgb(${scheme[k].color})` : "var(--dv-accent)";
        element(
          "polyline",
          { points: points.join(" "), stroke: color, "vector-effect": "non-scaling-stroke" },
          plot.lines,
        );
      }
      plot.cursor.setAttribute("x1", at(index));
      plot.cursor.setAttribute("x2", at(index));
      const here = figures.has(index) ? plot.rows(figures.get(index)) : [];
      const sum = here.reduce((a, b) => a + (b ?? 0), 0);
      const value = here.length && here.some((v) => v != null) ? sum : null;
      plot.output.textContent = figure(value) + (plot.key === "volumes" ? " in all" : "");
      plot.svg.setAttribute(
        "aria-label",
        `${plot.title} over ${total} steps; at step ${index + 1}: ${plot.output.textContent}`,
      );
    }
  }
}
