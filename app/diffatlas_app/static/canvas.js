// A scene drawn by NiiVue on one WebGL canvas: three planes and a 3-D view.
//
// A scene: {back: volume or null, slope, inter, units, window: [low, high], mask, unsure: volumes or null, colors:
// [[r, g, b]], visible: [bool], opacity, depth: how much of the image the 3-D view shows, at: mm, turn: [azimuth,
// elevation]}. A stage has `update(what)`, what a Set of "back", "mask", "look", "at", "turn", "rest", and calls back
// `hooks.moved(mm)`, `hooks.turned(azimuth, elevation)`, `hooks.rest()`, `hooks.lost()`.
import * as V from "./volumes.js";

const SOFTWARE = /swiftshader|llvmpipe|software|basic render/i;
const scripts = new Map();

function load(url) {
  if (!scripts.has(url))
    scripts.set(
      url,
      new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = url;
        script.onload = resolve;
        script.onerror = () => reject(new Error("the viewer's script could not be loaded"));
        document.head.append(script);
      }),
    );
  return scripts.get(url);
}

// "none" without WebGL 2, "software" where the processor would draw, "card" else.
export function graphics() {
  const gl = document.createElement("canvas").getContext("webgl2");
  if (!gl) return "none";
  const named = gl.getExtension("WEBGL_debug_renderer_info");
  const card = String(gl.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return SOFTWARE.test(card) ? "software" : "card";
}

// A drawing of the 3-D view takes milliseconds on a graphics card, and seconds where the processor does its work.
// There the canvas gets coarser while something moves, and finer again at rest.
const MOVING_MS = 140;
const RESTING_MS = 450;
const REST_AFTER_MS = 500;
const SCALES = [1, 0.75, 0.5, 0.35];

export class Canvas {
  static async start(holder, scene, label, url, hooks) {
    await load(url);
    const stage = new Canvas();
    stage.scene = scene;
    stage.hooks = hooks;
    const canvas = (stage.canvas = document.createElement("canvas"));
    canvas.className = "dv-canvas";
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${label}: three planes and a 3-D view. The sliders below move them.`);
    holder.replaceChildren(canvas);
    const { niivue } = window;
    const nv = (stage.nv = new niivue.Niivue({
      backColor: [0.035, 0.043, 0.059, 1],
      crosshairColor: [0.42, 0.72, 1, 0.75],
      crosshairWidth: 0.35,
      crosshairWidthUnit: "percent",
      crosshairGap: 6,
      fontColor: [0.94, 0.95, 0.97, 1],
      fontMinPx: 14,
      loadingText: "",
      logLevel: "error",
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      showAllOrientationMarkers: true,
      multiplanarShowRender: 1,
      multiplanarLayout: 2,
      multiplanarPadPixels: 6,
      isOrientCube: true,
      showLegend: false,
      dragAndDropEnabled: false,
      scrollRequiresFocus: true,
      viewModeHotKey: "",
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
    }));
    nv.onLocationChange = (where) => stage.quiet || hooks.moved(Array.from(where.mm).slice(0, 3));
    nv.onAzimuthElevationChange = (azimuth, elevation) => stage.quiet || hooks.turned(azimuth, elevation);
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      hooks.lost();
    });
    await nv.attachToCanvas(canvas, false);
    canvas.tabIndex = -1; // the sliders do by keyboard what the pointer does here
    const named = nv.gl.getExtension("WEBGL_debug_renderer_info");
    const card = named ? nv.gl.getParameter(named.UNMASKED_RENDERER_WEBGL) : "";
    const software = SOFTWARE.test(card);
    stage.cost = software ? 1500 : 10; // ms for a full drawing; measured from then on
    stage.scale = 1;
    canvas.addEventListener("pointerdown", () => stage.#resolve(MOVING_MS) && nv.resizeListener());
    // Where there is room, and a graphics card, the 3-D view is the largest picture; else all four are equal.
    const arrange = () => {
      nv.customLayout = !software && holder.clientWidth > 1.3 * holder.clientHeight ? wide(nv, holder) : null;
    };
    arrange();
    stage.resized = new ResizeObserver(arrange);
    stage.resized.observe(holder);
    nv.setSliceType(nv.sliceTypeMultiplanar);
    return stage;
  }

  async update(what) {
    const { nv, scene } = this;
    this.quiet = true;
    nv.isBusy = true; // holds NiiVue's own redrawing: one drawing for all that has changed
    try {
      if (what.has("back")) await this.#back();
      if (nv.volumes.length && (what.has("mask") || what.has("back") || what.has("look"))) {
        const look = what.has("look") || what.has("back");
        [nv.volumes[0].cal_min, nv.volumes[0].cal_max] = scene.window;
        const added = await this.#overlays(look);
        // NiiVue has seen to all layers where one was added; another mask alone leaves the image's layer as it is.
        if (!added && look) nv.updateGLVolume();
        else if (!added) nv.volumes.slice(1).forEach((overlay, i) => nv.refreshLayers(overlay, i + 1));
        // NiiVue shows the image as dense in 3-D as in the planes; there it would hide the structures.
        nv.renderShader.use(nv.gl);
        nv.gl.uniform1f(nv.renderShader.uniforms.backOpacity, scene.depth);
      }
      if (nv.volumes.length) {
        if (scene.at) nv.scene.crosshairPos = nv.mm2frac(scene.at);
        [nv.scene.renderAzimuth, nv.scene.renderElevation] = scene.turn;
      }
    } finally {
      nv.isBusy = this.quiet = false; // from here on, what moves was moved by hand
    }
    await this.#drawn(this.#resolve(what.has("rest") && what.size === 1 ? RESTING_MS : MOVING_MS));
  }

  // Choose the resolution at which a drawing takes about `ms`; whether it is another one.
  #resolve(ms) {
    const { nv } = this;
    const fit = (limit) => SCALES.find((scale) => this.cost * scale ** 2 <= limit) || SCALES.at(-1);
    const before = this.scale;
    this.scale = fit(ms);
    nv.opts.fontMinPx = Math.max(14, 9 / this.scale); // letters stay legible on a coarse canvas
    const side = this.scale * Math.min(this.canvas.clientWidth, this.canvas.clientHeight) || 1;
    nv.opts.crosshairWidth = Math.max(0.35, 120 / side); // percent of that; never less than a pixel
    nv.opts.forceDevicePixelRatio = this.scale === 1 ? 0 : this.scale * (window.devicePixelRatio || 1);
    clearTimeout(this.rest);
    if (fit(RESTING_MS) > this.scale) this.rest = setTimeout(this.hooks.rest, REST_AFTER_MS);
    return this.scale !== before;
  }

  // Draw, and wait until it is on the screen: steps that come faster than that are skipped, not heaped up.
  async #drawn(resized) {
    const { nv } = this;
    const { gl } = nv;
    const start = performance.now();
    if (resized) nv.resizeListener();
    else nv.drawScene();
    const done = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    while (done && !gl.isContextLost() && gl.clientWaitSync(done, 0, 0) === gl.TIMEOUT_EXPIRED)
      await new Promise((resolve) => setTimeout(resolve, 6));
    gl.deleteSync(done);
    this.cost = 0.5 * this.cost + 0.5 * ((performance.now() - start) / this.scale ** 2);
  }

  async #volume(volume, options, opacity) {
    const { NVImage } = window.niivue;
    const image = await NVImage.new(V.nifti(volume, options), "volume.nii", options.colormap || "gray", opacity);
    image.grid = volume;
    return image;
  }

  async #back() {
    const { nv, scene } = this;
    if (
      scene.back &&
      nv.volumes.length &&
      V.sameGrid(nv.volumes[0].grid, scene.back) &&
      this.inter === scene.inter &&
      this.slope === scene.slope
    ) {
      nv.volumes[0].img = scene.back.bytes;
      return;
    }
    for (const volume of [...nv.volumes].reverse()) nv.removeVolume(volume);
    [this.slope, this.inter] = [scene.slope, scene.inter];
    this.shown = {};
    if (!scene.back) return nv.drawScene();
    const [low, high] = scene.window;
    nv.addVolume(await this.#volume(scene.back, { slope: scene.slope, inter: scene.inter, low, high }, 1));
  }

  // Overlays by name, in the order they lie on the image; one that is not shown has no opacity. Returns whether one
  // was added.
  async #overlays(look) {
    const { nv, scene } = this;
    let added = false;
    for (const name of ["mask", "unsure"]) {
      const wanted = scene[name];
      let image = this.shown[name];
      if (image && (!wanted || !V.sameGrid(image.grid, wanted))) {
        nv.removeVolume(image);
        image = this.shown[name] = null;
      }
      if (!wanted) continue;
      const fresh = !image;
      if (fresh) {
        const options =
          name === "mask" ? { labels: true, low: 0, high: 255 } : { colormap: "inferno", low: 8, high: 255 };
        image = this.shown[name] = await this.#volume(V.bordered(wanted), options, 0);
        image.grid = wanted;
      } else image.img = V.bordered(wanted).bytes;
      if (fresh || look) {
        image._opacity = name === "mask" ? scene.opacity : scene.unsureOpacity;
        if (name === "mask") image.setColormapLabel(lookup(scene));
      }
      if (fresh) nv.addVolume(image);
      added ||= fresh;
    }
    return added;
  }

  stop() {
    clearTimeout(this.rest);
    this.resized.disconnect();
    this.nv.cleanup?.();
    this.nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
    this.canvas.remove();
  }
}

// The 3-D view in a square on the left, beside it the axial plane over the coronal and the sagittal one.
function wide(nv, holder) {
  const left = Math.min(0.56, holder.clientHeight / holder.clientWidth);
  const gap = 0.006;
  const half = (1 - left - 2 * gap) / 2;
  return [
    { sliceType: nv.sliceTypeRender, position: [0, 0, left, 1] },
    { sliceType: nv.sliceTypeAxial, position: [left + gap, 0, 1 - left - gap, 0.55] },
    { sliceType: nv.sliceTypeCoronal, position: [left + gap, 0.56, half, 0.44] },
    { sliceType: nv.sliceTypeSagittal, position: [left + 2 * gap + half, 0.56, half, 0.44] },
  ];
}

function lookup({ colors, visible }) {
  const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
  colors.forEach(([r, g, b], k) => {
    table.R.push(r);
    table.G.push(g);
    table.B.push(b);
    table.A.push(visible[k] ? 255 : 0);
    table.I.push(k + 1);
    table.labels.push("");
  });
  return table;
}
