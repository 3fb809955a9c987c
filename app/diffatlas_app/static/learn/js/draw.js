// Slices and surfaces on a plain 2-D canvas.
import { N } from "./volume.js";

const SCALE = 5;
export const SIDE = N * SCALE;

/**
 * Draw a slice, SIDE x SIDE pixels: `image` (bytes, N x N) smoothed, `labels` over it with smooth borders between the
 * voxels, `outline` (labels) as thin lines, `heat` ([0, 1], N x N) in amber. What is null is left out.
 */
export function drawSlice(canvas, { image = null, labels = null, outline = null, heat = null, colors, opacity = 0.5 }) {
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(SIDE, SIDE);
  const out = picture.data;
  const filled = labels && smoothLabels(labels);
  const lined = outline && smoothLabels(outline);
  for (let row = 0; row < SIDE; row++) {
    for (let column = 0; column < SIDE; column++) {
      const i = column + SIDE * row;
      const grey = image ? between(image, column, row) : 16;
      let r = grey, g = grey, b = grey;
      if (heat) {
        const h = Math.min(1, between(heat, column, row));
        r += h * (255 - r); g += h * (150 - g); b += h * (20 - b);
      }
      if (filled && filled[i]) {
        const c = colors[filled[i] - 1], a = isBorder(filled, column, row) ? 1 : opacity;
        r += a * (c[0] - r); g += a * (c[1] - g); b += a * (c[2] - b);
      }
      if (lined && isBorder(lined, column, row)) r = g = b = 255;
      out[4 * i] = r; out[4 * i + 1] = g; out[4 * i + 2] = b; out[4 * i + 3] = 255;
    }
  }
  context.putImageData(picture, 0, 0);
}

/** Value between voxels at pixel (column, row). */
function between(values, column, row) {
  const [x, y, u, v] = [CELL[column], CELL[row], PART[column], PART[row]];
  const x1 = Math.min(x + 1, N - 1), y1 = Math.min(y + 1, N - 1);
  const top = values[x + N * y] * (1 - u) + values[x1 + N * y] * u;
  return top * (1 - v) + (values[x + N * y1] * (1 - u) + values[x1 + N * y1] * u) * v;
}

const CELL = new Int32Array(SIDE), PART = new Float32Array(SIDE);
for (let i = 0; i < SIDE; i++) {
  const at = Math.max(0, Math.min(N - 1, (i + 0.5) / SCALE - 0.5));
  CELL[i] = Math.floor(at);
  PART[i] = at - CELL[i];
}

/** Labels at SIDE x SIDE: at every pixel the label that weighs most among the four voxels about it. */
export function smoothLabels(labels) {
  const out = new Uint8Array(SIDE * SIDE);
  for (let row = 0; row < SIDE; row++) {
    const y = CELL[row], y1 = Math.min(y + 1, N - 1), v = PART[row];
    for (let column = 0; column < SIDE; column++) {
      const x = CELL[column], x1 = Math.min(x + 1, N - 1), u = PART[column];
      const a = labels[x + N * y], b = labels[x1 + N * y], c = labels[x + N * y1], d = labels[x1 + N * y1];
      out[column + SIDE * row] = a === b && a === c && a === d ? a : heaviest(a, b, c, d, u, v);
    }
  }
  return out;
}

function heaviest(a, b, c, d, u, v) {
  const found = [a, b, c, d], weight = [(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v];
  let best = a, most = -1;
  for (let i = 0; i < 4; i++) {
    let sum = 0;
    for (let j = 0; j < 4; j++) if (found[j] === found[i]) sum += weight[j];
    if (sum > most) {
      most = sum;
      best = found[i];
    }
  }
  return best;
}

function isBorder(labels, column, row) {
  const i = column + SIDE * row, own = labels[i];
  return (column + 1 < SIDE && labels[i + 1] !== own) || (row + 1 < SIDE && labels[i + SIDE] !== own);
}

/** The points of a label map's surfaces: position, normal and label, six numbers and a label each. */
export function surfaceOf(volume) {
  const points = [];
  const at = (x, y, z) => volume[x + N * (y + N * z)];
  for (let z = 1; z < N - 1; z++) {
    for (let y = 1; y < N - 1; y++) {
      for (let x = 1; x < N - 1; x++) {
        const k = at(x, y, z);
        if (!k) continue;
        const open = at(x - 1, y, z) && at(x + 1, y, z) && at(x, y - 1, z) && at(x, y + 1, z) && at(x, y, z - 1) && at(x, y, z + 1);
        if (open) continue;
        let nx = 0, ny = 0, nz = 0;
        for (let c = -2; c <= 2; c++) {
          for (let b = -2; b <= 2; b++) {
            for (let a = -2; a <= 2; a++) {
              const inside = x + a >= 0 && x + a < N && y + b >= 0 && y + b < N && z + c >= 0 && z + c < N && at(x + a, y + b, z + c);
              if (!inside) { nx += a; ny += b; nz += c; }
            }
          }
        }
        const length = Math.hypot(nx, ny, nz) || 1;
        points.push([x - 31.5, y - 31.5, z - 31.5, nx / length, ny / length, nz / length, k]);
      }
    }
  }
  return points;
}

/** Draw surface points as seen from in front of the patient, turned by `turn` about the long axis and `tilt`, radians. */
export function drawSurface(canvas, points, colors, turn, tilt, background) {
  const side = 300, zoom = 4.3;
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(side, side);
  const out = picture.data, depth = new Float32Array(side * side).fill(Infinity);
  for (let i = 0; i < side * side; i++) {
    out[4 * i] = background[0]; out[4 * i + 1] = background[1]; out[4 * i + 2] = background[2]; out[4 * i + 3] = 255;
  }
  const [ct, st, cp, sp] = [Math.cos(turn), Math.sin(turn), Math.cos(tilt), Math.sin(tilt)];
  for (const [x, y, z, nx, ny, nz, k] of points) {
    // Right of the patient on the left of the picture; the camera looks along -y from the front.
    const [a, b] = [-(x * ct - y * st), x * st + y * ct];
    const [na, nb] = [-(nx * ct - ny * st), nx * st + ny * ct];
    const up = z * cp - b * sp, away = -(b * cp + z * sp);
    const light = Math.max(0, -0.35 * na + 0.45 * (nz * cp - nb * sp) + 0.82 * (nb * cp + nz * sp));
    const shade = 0.32 + 0.68 * light;
    const px = Math.round(side / 2 + a * zoom), py = Math.round(side / 2 - up * zoom);
    const c = colors[k - 1];
    for (let dy = -2; dy <= 3; dy++) {
      for (let dx = -2; dx <= 3; dx++) {
        const qx = px + dx, qy = py + dy;
        if (qx < 0 || qy < 0 || qx >= side || qy >= side || away >= depth[qx + side * qy]) continue;
        const i = qx + side * qy;
        depth[i] = away;
        out[4 * i] = c[0] * shade; out[4 * i + 1] = c[1] * shade; out[4 * i + 2] = c[2] * shade;
      }
    }
  }
  context.putImageData(picture, 0, 0);
}
