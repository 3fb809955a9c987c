// The viewer: takes the page's messages, keeps the steps of a run, shows one of them, and plays them back.
import * as V from "./volumes.js";
import { Canvas, graphics } from "./canvas.js";
import { AXES, markup } from "./panel.js";
import { Plots } from "./plots.js";
import { Slices } from "./slices.js";

const KEPT_BYTES = 48 * 1024 * 1024; // packed steps of one run; beyond it every second one is let go
const DEFAULT_TURN = [130, 12];
const DEPTH = { alone: 1, behind: 0.12 }; // of the image in 3-D, without a mask and with one
const INSIST = "diffatlas-3d"; // in the session's storage: "on" where the visitor asked for slow 3-D
const viewers = new Set();

const seconds = (s) =>
  s < 9.95
    ? `${s.toFixed(1)} s`
    : s < 59.5
      ? `${Math.round(s)} s`
      : `${Math.floor(Math.round(s) / 60)} min ${Math.round(s) % 60} s`;
const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

class Viewer {
  constructor(element, setup, props, watch, server) {
    this.setup = setup;
    this.server = server;
    this.box = element.querySelector(".dv");
    this.box.setAttribute("role", "region");
    this.box.setAttribute("aria-label", setup.label);
    this.box.innerHTML = markup();
    this.find = (selector) => this.box.querySelector(selector);
    this.plots = new Plots(this.find(".dv-plots"), (index) => this.goTo(index, true));
    this.scene = {
      back: null,
      mask: null,
      unsure: null,
      slope: 1,
      inter: 0,
      units: "",
      window: [0, 1],
      colors: [],
      visible: [],
      opacity: 0.55,
      unsureOpacity: 0,
      depth: DEPTH.alone,
      at: null,
      turn: [...DEFAULT_TURN],
    };
    this.blend = 0;
    this.limit = KEPT_BYTES;
    this.changed = new Set();
    this.scheme = [];
    this.forget();
    this.#controls();
    // A browser grants few canvases of WebGL: those of viewers that have left the page are given back.
    for (const other of viewers) if (!other.box.isConnected) other.leave();
    viewers.add(this);
    // Messages are taken one by one, in the order they came.
    this.queue = Promise.resolve();
    const take = () => {
      const value = props.value;
      this.queue = this.queue.then(() => this.take(value)).catch((error) => this.fail(error));
    };
    this.queue = this.stageNow().catch((error) => this.fail(error));
    take();
    watch("value", take);
  }

  // NiiVue's canvas, or slices from the server: without WebGL 2, and where the processor would draw it (a 3-D view then
  // takes seconds and stalls the page) unless the visitor asks for it.
  async stageNow(without = false) {
    const view = this.find(".dv-view");
    const again = (slices) =>
      this.stageNow(slices)
        .then(() => this.refresh("back", "mask", "look"))
        .catch((error) => this.fail(error));
    const hooks = {
      moved: (mm) => this.moved(mm),
      turned: (azimuth, elevation) => this.turned(azimuth, elevation),
      rest: () => this.refresh("rest"),
      lost: () => this.stage && again(true),
      insist: () => {
        sessionStorage.setItem(INSIST, "on");
        for (const viewer of viewers) if (viewer.stage instanceof Slices) viewer.stageAgain(false);
      },
    };
    this.stageAgain = again;
    this.stage?.stop();
    this.stage = null;
    const found = graphics();
    const slices = without || found === "none" || (found === "software" && sessionStorage.getItem(INSIST) !== "on");
    this.stage = slices
      ? await Slices.start(view, this.scene, this.setup.label, this.server, hooks, without ? "none" : found)
      : await Canvas.start(view, this.scene, this.setup.label, this.setup.niivue, hooks);
    this.box.dataset.stage = slices ? "slices" : "canvas";
  }

  // Messages.

  async take(text) {
    const m = JSON.parse(text);
    if (m.caption !== undefined) this.caption(m.caption);
    if (m.kind === "open") return this.open(m);
    if (m.kind === "empty") {
      this.forget();
      Object.assign(this.scene, { back: null, mask: null, unsure: null });
      this.patient = null;
      return (this.say("empty", m.words), this.refresh("back"));
    }
    if (m.kind === "waiting") {
      this.forget();
      if (m.view) this.setScheme(m.scheme);
      Object.assign(this.scene, { mask: m.view && (await V.unpack(V.keep(m.view))), unsure: null });
      return (this.say("waiting", m.words), this.refresh("back", "mask", "look"));
    }
    if (m.kind === "stopped") {
      const last = this.steps.at(-1);
      this.total = last ? last.index + 1 : 0;
      if (!this.total) this.clear();
      return this.say(
        "stopped",
        m.words || (this.total ? `Stopped at step ${this.total} of ${last.total}` : "Stopped before the first step"),
      );
    }
    if (m.kind === "error") {
      if (!this.steps.some((step) => step.index >= 0)) this.clear();
      return this.say("error", m.words);
    }
    if (m.kind === "recording") {
      this.forget();
      for (const step of m.steps) this.add(step);
      this.say("done", m.words || `Recorded run: ${this.total} steps`);
      const still = !m.play || matchMedia("(prefers-reduced-motion: reduce)").matches;
      this.follow = still;
      this.show(still ? this.steps.length - 1 : 0);
      return still ? undefined : this.play();
    }
    this.add(m);
    if (m.kind === "done")
      this.say(
        m.doubt ? "doubt" : "done",
        m.words || `Done: ${m.total} steps${m.seconds == null ? "" : ` in ${seconds(m.seconds)}`}`,
      );
    else if (m.index < 0)
      this.say("running", `Noise, where the model looks: the first of ${m.total} steps is being computed…`);
    else
      this.say(
        "running",
        `Step ${m.index + 1} of ${m.total} · noise level ${m.t.toFixed(2)}${m.left == null ? "" : ` · about ${seconds(m.left)} left`}`,
      );
    // Not awaited: where drawing is slower than the run, what has been overtaken is never drawn.
    if (this.follow) this.show(this.steps.length - 1);
    else this.drawSteps();
  }

  async open(m) {
    this.forget();
    this.setScheme(m.scheme || []);
    this.patient = m.image && (await V.unpack(V.keep(m.image)));
    const { scene } = this;
    Object.assign(scene, { mask: null, unsure: null, back: this.patient });
    if (m.image) this.setImage(m.image);
    if (m.labels) scene.mask = await V.unpack(V.keep(m.labels));
    // A mask alone needs something to lie on: an empty image on its grid, until a run brings one.
    if (!m.image && scene.mask) {
      scene.back = { ...scene.mask, bytes: new Uint8Array(scene.mask.bytes.length) };
      this.setImage({ slope: 1 / 255, inter: 0, window: [0, 1], units: "" });
    }
    this.blank = !m.image;
    this.say("open", m.hint || m.name);
    await this.refresh("back", "mask", "look");
    this.drawSteps();
  }

  setImage({ slope, inter, window, units }) {
    const { scene } = this;
    Object.assign(scene, { slope, inter, units, window: [...window], first: [...window] });
    scene.at = V.centre(scene.back);
    const range = [inter, inter + 255 * slope];
    for (const name of ["low", "high"]) {
      const input = this.input(name);
      [input.min, input.max] = range;
      input.step = "any";
      input.value = window[name === "low" ? 0 : 1];
    }
    for (let a = 0; a < 3; a++) {
      const input = this.input(`at${a}`);
      [input.min, input.max, input.step] = [0, scene.back.shape[a] - 1, 1];
    }
  }

  setScheme(scheme) {
    if (JSON.stringify(scheme) === JSON.stringify(this.scheme)) return;
    this.scheme = scheme;
    this.scene.colors = scheme.map((s) => s.color);
    this.scene.visible = scheme.map(() => true);
    this.changed.add("look"); // the stage keeps colours with a mask's layer: they are others now
    this.find(".dv-legend").replaceChildren(
      ...scheme.map((structure, k) => {
        const item = document.createElement("li");
        const button = document.createElement("button");
        button.type = "button";
        button.setAttribute("aria-pressed", "true");
        button.innerHTML = `<i style="background:rgb(${structure.color})"></i><span></span><b></b>`;
        button.querySelector("span").textContent = structure.name;
        button.addEventListener("click", () => {
          this.scene.visible[k] = !this.scene.visible[k];
          button.setAttribute("aria-pressed", String(this.scene.visible[k]));
          this.refresh("look");
        });
        item.append(button);
        return item;
      }),
    );
  }

  forget() {
    this.pause();
    Object.assign(this, {
      steps: [],
      figures: new Map(),
      total: 0,
      at: -1,
      follow: true,
      run: null,
      bytes: 0,
      half: null,
    });
    delete this.box.dataset.shown;
    this.drawSteps();
  }

  // Forget the run and what it showed, the noise it began with or a search's box: the image alone stays.
  clear() {
    this.forget();
    Object.assign(this.scene, { mask: null, unsure: null });
    this.refresh("back", "mask");
  }

  add(m) {
    const last = this.steps.at(-1);
    if (
      last &&
      (m.index < last.index || (m.run ?? "") !== (this.run ?? "") || (m.index === last.index && m.kind === "step"))
    )
      this.forget();
    else if (last && m.index === last.index) this.bytes -= this.steps.pop().bytes;
    this.run = m.run ?? "";
    this.setScheme(m.scheme);
    const step = {
      index: m.index,
      total: m.total,
      t: m.t,
      labels: V.keep(m.labels),
      half: V.keep(m.half),
      confidence: V.keep(m.confidence),
    };
    step.bytes = [step.labels, step.half, step.confidence].reduce((n, part) => n + (part ? part.packed.length : 0), 0);
    this.steps.push(step);
    this.bytes += step.bytes;
    while (this.bytes > this.limit && this.steps.length > 4) {
      this.steps = this.steps.filter((_, i) => i % 2 === 0 || i === this.steps.length - 1);
      this.bytes = this.steps.reduce((n, s) => n + s.bytes, 0);
    }
    m.metrics.rows.forEach((row, i) => this.figures.set(m.metrics.from + i, row));
    this.figures = new Map([...this.figures].sort(([a], [b]) => a - b));
    this.total = m.total;
  }

  // The step that is shown.

  // Show the kept step at `position`; of several calls while one is being drawn, the last one counts.
  async show(position) {
    if (!this.steps.length) return;
    this.at = clamp(position, 0, this.steps.length - 1);
    this.drawSteps();
    this.stale = true;
    this.showing ??= (async () => {
      try {
        while (this.stale) {
          this.stale = false;
          if (this.steps[this.at]) await this.#draw(this.steps[this.at]);
        }
      } finally {
        this.showing = null;
      }
    })();
    return this.showing;
  }

  async #draw(step) {
    const { steps } = this;
    const mask = await V.unpack(step.labels);
    const unsure = step.confidence && inverted(await V.unpack(step.confidence));
    const half = this.blend > 0 || !this.patient ? await V.unpack(step.half) : null;
    if (steps !== this.steps && !this.steps.includes(step)) return; // another run, or another image, by now
    Object.assign(this.scene, { mask, unsure });
    this.half = half;
    await this.refresh(...(half || this.blended ? ["back", "mask"] : ["mask"]));
    this.box.dataset.shown = step.index;
  }

  // Bring the stage up to date with the scene: one update at a time, of all that has changed meanwhile.
  async refresh(...what) {
    if (what.includes("back")) this.#mix();
    if (!this.ownDepth) this.scene.depth = this.scene.mask ? DEPTH.behind : DEPTH.alone;
    this.fields();
    what.forEach((part) => this.changed.add(part));
    if (!this.stage) return; // the stage that comes brings itself up to date
    this.updating ??= (async () => {
      try {
        while (this.changed.size && this.stage) {
          const changed = this.changed;
          this.changed = new Set();
          await this.stage.update(changed);
        }
      } catch (error) {
        this.fail(error);
      } finally {
        this.updating = null;
      }
    })();
    return this.updating;
  }

  #mix() {
    const { scene, patient, half } = this;
    this.blended = false;
    if (!patient) {
      const first = half && (this.blank || !V.sameGrid(half, scene.back));
      scene.back = half || scene.back;
      if (half) this.blank = false;
      if (first) this.setImage({ slope: 2 / 255, inter: -1, window: [-1, 1], units: "" });
      return;
    }
    scene.back = patient;
    if (!half || this.blend === 0) return;
    // The half has the model's window as its range, and is shown in the window that the image was opened with.
    const [low, high] = scene.first.map((v) => (v - scene.inter) / scene.slope);
    scene.back = { ...patient, bytes: V.blended(patient, half, this.blend, low, (high - low) / 255) };
    this.blended = true;
  }

  // The kept step nearest to step `index` of the run.
  nearest(index) {
    const far = this.steps.map((step) => Math.abs(step.index - index));
    return far.indexOf(Math.min(...far));
  }

  goTo(index, byHand = false) {
    this.choose(this.nearest(index), byHand);
  }

  choose(position, byHand = false) {
    if (!this.steps.length) return;
    if (byHand) this.pause();
    this.follow = position >= this.steps.length - 1;
    this.show(position);
    this.others((other) => {
      if (byHand) other.pause();
      const share = this.total > 1 ? this.steps[this.at].index / (this.total - 1) : 1;
      other.follow = this.follow;
      other.show(other.nearest(share * Math.max(other.total - 1, 0)));
    });
  }

  play() {
    if (this.steps.length < 2) return;
    let position = this.at >= this.steps.length - 1 ? 0 : this.at + 1;
    const wait = clamp(5000 / this.steps.length, 30, 250);
    const tick = async () => {
      this.choose(position);
      await this.showing;
      if (!this.timer) return;
      if (++position >= this.steps.length) return this.pause();
      this.timer = setTimeout(tick, wait);
    };
    this.timer = setTimeout(tick, 0);
    this.button("play").setAttribute("aria-label", "Pause");
    this.box.dataset.playing = "";
  }

  pause() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.button("play").setAttribute("aria-label", "Play the steps");
    delete this.box.dataset.playing;
  }

  // Crosshair and camera, shared by a group.

  moved(mm) {
    this.scene.at = mm;
    this.fields();
    if (!(this.stage instanceof Canvas)) this.refresh("at");
    this.others((other) => {
      other.scene.at = mm;
      other.refresh("at");
    });
  }

  turned(azimuth, elevation) {
    this.scene.turn = [((azimuth % 360) + 360) % 360, clamp(elevation, -90, 90)];
    this.fields();
    this.others((other) => {
      other.scene.turn = [...this.scene.turn];
      other.refresh("turn");
    });
  }

  others(act) {
    if (!this.setup.group) return;
    for (const other of viewers)
      if (other !== this && other.setup.group === this.setup.group && other.box.isConnected) act(other);
  }

  leave() {
    this.pause();
    this.stage?.stop();
    this.stage = null;
    viewers.delete(this);
  }

  // What the page around the picture says.

  input(name) {
    return this.find(`[data-control="${name}"]`);
  }

  button(name) {
    return this.find(`[data-button="${name}"]`);
  }

  caption(words) {
    const caption = this.find(".dv-caption");
    caption.textContent = words;
    caption.hidden = !words;
  }

  say(state, words) {
    const before = this.box.dataset.state;
    this.box.dataset.state = state;
    this.find(".dv-words").textContent = words;
    this.find(".dv-over").textContent = state === "empty" ? words : "";
    const bar = this.find(".dv-bar");
    const last = this.steps.at(-1);
    const done = state === "done" || state === "doubt" ? this.total : last ? last.index + 1 : 0;
    bar.setAttribute("aria-label", `${this.setup.label}: steps`);
    bar.setAttribute("aria-valuemax", this.total || 1);
    bar.setAttribute("aria-valuenow", done);
    bar.firstElementChild.style.width = `${(100 * done) / (last ? last.total : 1)}%`;
    // Read aloud: every change of state, and each tenth of a run.
    const tenth = last ? Math.floor((10 * (last.index + 1)) / last.total) : 0;
    if (state !== before || (state === "running" && tenth !== this.tenth)) this.find(".dv-live").textContent = words;
    this.tenth = tenth;
  }

  fail(error) {
    console.warn(error);
    this.say("error", `The viewer: ${error.message || error}`);
  }

  drawSteps() {
    const step = this.steps[this.at];
    const input = this.input("step");
    input.max = Math.max(this.steps.length - 1, 0);
    input.value = Math.max(this.at, 0);
    input.setAttribute(
      "aria-valuetext",
      step ? `Step ${step.index + 1} of ${step.total}, noise level ${step.t.toFixed(2)}` : "no steps yet",
    );
    for (const control of [input, this.button("back"), this.button("play"), this.button("forth")])
      control.disabled = this.steps.length < 2;
    this.find(".dv-count").textContent = step ? `${step.index + 1} / ${step.total}` : "";
    this.box.classList.toggle("dv-has-steps", this.steps.length > 0);
    const figures = step && this.figures.get(step.index);
    this.plots.draw(this.figures, step ? step.total : 0, step ? step.index : 0, this.scheme);
    this.box.querySelectorAll(".dv-legend b").forEach((b, k) => {
      const ml = figures && figures[3 + k];
      b.textContent = ml == null ? "" : `${ml < 10 ? ml.toFixed(2) : ml.toFixed(0)} ml`;
    });
  }

  // Sliders from the scene.
  fields() {
    const { scene } = this;
    const shown = (name, text, value) => {
      const input = this.input(name);
      if (value != null && Math.abs(Number(input.value) - value) > 1e-6) input.value = value;
      input.nextElementSibling.textContent = text;
      input.setAttribute("aria-valuetext", text);
    };
    const percent = (v) => `${Math.round(100 * v)} %`;
    const round = (v) => (Math.abs(v) >= 100 ? v.toFixed(0) : String(Number(v.toPrecision(3))));
    shown("blend", percent(this.blend));
    shown("opacity", percent(scene.opacity));
    shown("unsure", percent(scene.unsureOpacity));
    shown("depth", percent(scene.depth), scene.depth);
    shown("low", `${round(scene.window[0])} ${scene.units}`.trim(), scene.window[0]);
    shown("high", `${round(scene.window[1])} ${scene.units}`.trim(), scene.window[1]);
    shown("azimuth", `${Math.round(scene.turn[0])}°`, scene.turn[0]);
    shown("elevation", `${Math.round(scene.turn[1])}°`, scene.turn[1]);
    const voxel = scene.back && scene.at && V.apply(V.inverse(scene.back.affine), scene.at);
    AXES.forEach(([, low, high], a) => {
      const mm = scene.at ? scene.at[a] : 0;
      shown(
        `at${a}`,
        scene.back ? `${mm < 0 ? low : high} ${Math.abs(mm).toFixed(0)} mm` : "–",
        voxel ? clamp(Math.round(voxel[a]), 0, scene.back.shape[a] - 1) : null,
      );
    });
    this.find('[data-field="unsure"]').hidden = !scene.unsure;
    this.find('[data-field="opacity"]').hidden = !scene.mask;
    this.find('[data-field="blend"]').hidden = !(this.patient && this.steps.length && this.steps.at(-1).half);
    for (const name of ["azimuth", "elevation", "depth"])
      this.find(`[data-field="${name}"]`).hidden = this.stage instanceof Slices;
    this.box.classList.toggle("dv-has-image", !!scene.back);
    this.where();
  }

  // Under the crosshair: value of the image, structure of the mask.
  where() {
    const { scene } = this;
    if (!scene.back || !scene.at) return (this.find(".dv-where").textContent = "");
    const byte = V.nearest(scene.back, V.inverse(scene.back.affine), scene.at, null);
    const index = scene.mask ? V.nearest(scene.mask, V.inverse(scene.mask.affine), scene.at, 0) : 0;
    const value =
      byte == null
        ? ""
        : Number((scene.inter + byte * scene.slope).toPrecision(3)) + (scene.units ? ` ${scene.units}` : "");
    const parts = [value, index && this.scheme[index - 1] ? this.scheme[index - 1].name : ""];
    this.find(".dv-where").textContent = parts.filter(Boolean).join(" · ");
  }

  #controls() {
    const { scene } = this;
    const on = (name, act) => this.input(name).addEventListener("input", (event) => act(Number(event.target.value)));
    on("step", (position) => this.choose(position, true));
    on("opacity", (v) => ((scene.opacity = v), this.refresh("look")));
    on("unsure", (v) => ((scene.unsureOpacity = v), this.refresh("look")));
    on("depth", (v) => ((scene.depth = v), (this.ownDepth = true), this.refresh("look")));
    const blend = (viewer, v) => {
      viewer.blend = v;
      viewer.input("blend").value = v;
      if (viewer.at >= 0) viewer.show(viewer.at);
    };
    on("blend", (v) => {
      blend(this, v);
      this.others((other) => blend(other, v));
    });
    on("low", (v) => ((scene.window[0] = Math.min(v, scene.window[1] - scene.slope)), this.refresh("look")));
    on("high", (v) => ((scene.window[1] = Math.max(v, scene.window[0] + scene.slope)), this.refresh("look")));
    for (let a = 0; a < 3; a++)
      on(`at${a}`, (v) => {
        if (!scene.back) return;
        const voxel = V.apply(V.inverse(scene.back.affine), scene.at);
        voxel[a] = v;
        const mm = V.apply(scene.back.affine, voxel);
        this.moved(mm);
        this.refresh("at");
      });
    const turn = (azimuth, elevation) => {
      this.turned(azimuth, elevation);
      this.refresh("turn");
    };
    on("azimuth", (v) => turn(v, scene.turn[1]));
    on("elevation", (v) => turn(scene.turn[0], v));
    this.button("play").addEventListener("click", () => (this.timer ? this.pause() : this.play()));
    this.button("back").addEventListener("click", () => this.choose(this.at - 1, true));
    this.button("forth").addEventListener("click", () => this.choose(this.at + 1, true));
  }
}

function inverted(volume) {
  return { ...volume, bytes: volume.bytes.map((b) => 255 - b) };
}

export function mount(element, setup, props, watch, server) {
  element.viewer = new Viewer(element, setup, props, watch, server);
}
