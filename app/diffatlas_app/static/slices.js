// A scene as three slices that the server draws, where the browser has no fast WebGL 2. The same stage as `Canvas`.
import * as V from "./volumes.js";

// Planes as the server names them; rows and columns of a picture run from R, A or S at the top left.
const PLANES = [
  { name: "axial", across: 2, columns: 0, rows: 1 },
  { name: "coronal", across: 1, columns: 0, rows: 2 },
  { name: "sagittal", across: 0, columns: 1, rows: 2 },
];
const MAX_SIDE = 320;

export class Slices {
  // `why`: what `graphics()` said; `hooks.insist()` asks for the canvas all the same.
  static async start(holder, scene, label, server, hooks, why) {
    const stage = new Slices();
    Object.assign(stage, { scene, server, hooks, label });
    stage.tiles = PLANES.map((plane, i) => {
      const tile = document.createElement("div");
      tile.className = "dv-slice";
      tile.innerHTML = '<img decoding="sync" draggable="false"><i class="dv-x"></i><i class="dv-y"></i>';
      tile.addEventListener("pointerdown", (event) => {
        tile.setPointerCapture(event.pointerId);
        stage.#point(i, event);
      });
      tile.addEventListener("pointermove", (event) => event.buttons & 1 && stage.#point(i, event));
      return tile;
    });
    const frame = document.createElement("div");
    frame.className = "dv-slices";
    const note = document.createElement("p");
    note.className = "dv-slices-note";
    note.textContent =
      why === "software"
        ? "This browser has no graphics card for 3-D, which would take seconds a picture: the server draws the planes. "
        : "No WebGL in this browser: the server draws the planes, and there is no 3-D view.";
    if (why === "software") {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Show 3-D all the same";
      button.addEventListener("click", () => hooks.insist());
      note.append(button);
    }
    frame.append(...stage.tiles, note);
    stage.frame = frame;
    holder.replaceChildren(frame);
    return stage;
  }

  async update() {
    const { scene } = this;
    this.frame.dataset.empty = !scene.back;
    if (!scene.back) return;
    // All of the scene that this picture shows is taken now: it may be another one when the server answers.
    const cuts = PLANES.map((plane) => cut(scene, plane));
    const unsure = scene.unsure && scene.unsureOpacity > 0;
    const look = {
      opacity: unsure ? scene.unsureOpacity : scene.opacity,
      colors: unsure ? HEAT : scene.colors,
    };
    const slices = await Promise.all(
      cuts.map(async (c) => ({
        plane: c.plane.name,
        shape: [c.rows, c.columns],
        size: c.size,
        gray: await V.compress(c.gray),
        labels: await V.compress(c.labels),
      })),
    );
    const answer = await this.server.drawn_slices({ ...look, slices });
    if (!answer || answer.error) throw new Error((answer && answer.error) || "the server drew nothing");
    this.cuts = cuts;
    await Promise.all(
      this.tiles.map(async (tile, i) => {
        const picture = tile.querySelector("img");
        const { plane, x, y } = cuts[i];
        picture.src = answer.pictures[i];
        picture.alt = `${this.label}: ${plane.name} slice`;
        tile.style.setProperty("--x", `${100 * x}%`);
        tile.style.setProperty("--y", `${100 * y}%`);
        await picture.decode().catch(() => {});
      }),
    );
  }

  #point(i, event) {
    const c = this.cuts?.[i];
    if (!c) return;
    const box = this.tiles[i].querySelector("img").getBoundingClientRect();
    const share = (at, low, size) => Math.min(Math.max((at - low) / size, 0), 1);
    const voxel = [...c.voxel];
    voxel[c.plane.columns] = (1 - share(event.clientX, box.left, box.width)) * c.shape[c.plane.columns] - 0.5;
    voxel[c.plane.rows] = (1 - share(event.clientY, box.top, box.height)) * c.shape[c.plane.rows] - 0.5;
    this.hooks.moved(V.apply(this.scene.back.affine, voxel));
  }

  stop() {
    this.frame.remove();
  }
}

// How far samples disagree, in ten colours from dark red to pale yellow.
const HEAT = Array.from({ length: 10 }, (_, i) => [Math.min(255, 90 + 22 * i), Math.min(255, 26 * i), 8 * i]);

// One plane of a scene through its crosshair: gray levels after the window, labels, and where the crosshair is.
function cut(scene, plane) {
  const { back } = scene;
  const inverse = V.inverse(back.affine);
  const voxel = V.apply(inverse, scene.at || V.centre(back)).map((v, a) => Math.min(Math.max(v, 0), back.shape[a] - 1));
  const step = V.spacing(back.affine);
  const fine = scene.mask ? V.spacing(scene.mask.affine) : step;
  const extent = [plane.columns, plane.rows].map((a) => back.shape[a] * step[a]);
  const pixel = Math.max(Math.min(...step, ...fine), Math.max(...extent) / MAX_SIDE);
  const [columns, rows] = extent.map((mm) => Math.max(1, Math.round(mm / pixel)));
  const shown = scene.unsure && scene.unsureOpacity > 0 ? scene.unsure : scene.mask;
  const toShown = shown && V.inverse(shown.affine);
  const [low, high] = scene.window.map((v) => (v - scene.inter) / scene.slope);
  const gray = new Uint8Array(rows * columns);
  const labels = new Uint8Array(rows * columns);
  const at = [...voxel];
  const index = at.map(Math.round);
  const stride = [1, back.shape[0], back.shape[0] * back.shape[1]];
  for (let r = 0, i = 0; r < rows; r++) {
    at[plane.rows] = (1 - (r + 0.5) / rows) * back.shape[plane.rows] - 0.5;
    index[plane.rows] = Math.min(Math.max(Math.round(at[plane.rows]), 0), back.shape[plane.rows] - 1);
    for (let c = 0; c < columns; c++, i++) {
      at[plane.columns] = (1 - (c + 0.5) / columns) * back.shape[plane.columns] - 0.5;
      index[plane.columns] = Math.min(Math.max(Math.round(at[plane.columns]), 0), back.shape[plane.columns] - 1);
      const value = back.bytes[index[0] + stride[1] * index[1] + stride[2] * index[2]];
      gray[i] = Math.min(Math.max((255 * (value - low)) / Math.max(high - low, 1e-6), 0), 255);
      if (!shown) continue;
      const byte = V.nearest(shown, toShown, V.apply(back.affine, at), 0);
      if (shown === scene.mask) labels[i] = byte && scene.visible[byte - 1] ? byte : 0;
      else labels[i] = byte < 8 ? 0 : 1 + Math.min(HEAT.length - 1, Math.floor((byte / 256) * HEAT.length));
    }
  }
  const scale = Math.min(2, 512 / Math.max(...extent.map((mm) => mm / pixel)));
  return {
    plane,
    voxel,
    shape: back.shape,
    rows,
    columns,
    size: [columns, rows].map((n) => Math.max(1, Math.round(n * scale))),
    gray,
    labels,
    x: 1 - (voxel[plane.columns] + 0.5) / back.shape[plane.columns],
    y: 1 - (voxel[plane.rows] + 0.5) / back.shape[plane.rows],
  };
}
