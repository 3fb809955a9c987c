// Volumes [N, N, N], one byte a voxel, index x + N (y + N z); x runs to the patient's right, y forward, z up.

export const N = 64;

/** The volume in a picture of 8 x 8 tiles (tile z, row y, column x); `rgba` is 512 x 512 pixels as a canvas gives them. */
export function volumeFromTiles(rgba) {
  const side = 8 * N;
  const out = new Uint8Array(N * N * N);
  for (let z = 0; z < N; z++) {
    const left = (z % 8) * N, top = Math.floor(z / 8) * N;
    for (let y = 0; y < N; y++) {
      for (let x = 0; x < N; x++) out[x + N * (y + N * z)] = rgba[4 * ((top + y) * side + left + x)];
    }
  }
  return out;
}

/** Volume index of pixel (column, row) of a slice; the patient's right is on the left, forward and up are on top. */
export function voxelAt(axis, at, column, row) {
  const a = N - 1 - column, b = N - 1 - row;
  if (axis === "axial") return a + N * (b + N * at);
  if (axis === "coronal") return a + N * (at + N * b);
  return at + N * (a + N * b);
}

/** Slice number `at` of a volume, N x N, row by row; `Kind` is the array type of the result. */
export function sliceOf(volume, axis, at) {
  const out = new volume.constructor(N * N);
  for (let row = 0; row < N; row++) {
    for (let column = 0; column < N; column++) out[column + N * row] = volume[voxelAt(axis, at, column, row)];
  }
  return out;
}

/** Dice of structure k in two label maps, 0 to 1; null where both are empty. */
export function diceOf(a, b, k) {
  let both = 0, sum = 0;
  for (let i = 0; i < a.length; i++) {
    const inA = a[i] === k, inB = b[i] === k;
    if (inA && inB) both++;
    sum += inA + inB;
  }
  return sum ? (2 * both) / sum : null;
}

/** Mean of the numbers that are there. */
export function meanOf(values) {
  const there = values.filter((v) => v !== null);
  return there.length ? there.reduce((a, b) => a + b, 0) / there.length : null;
}

/**
 * Signed distance of a structure's border in a plane, in pixels, negative inside: distance to the nearest pixel of the
 * other kind, less a half (borders run between pixels). Exact (Felzenszwalb and Huttenlocher 2012), N x N.
 */
export function signedDistance(labels, k) {
  const inside = squaredDistance(labels, (v) => v !== k);
  const outside = squaredDistance(labels, (v) => v === k);
  const out = new Float32Array(labels.length);
  for (let i = 0; i < out.length; i++) {
    out[i] = labels[i] === k ? 0.5 - Math.sqrt(inside[i]) : Math.sqrt(outside[i]) - 0.5;
  }
  return out;
}

const FAR = 1e9;

function squaredDistance(labels, isTarget) {
  const grid = Float64Array.from(labels, (v) => (isTarget(v) ? 0 : FAR));
  const line = new Float64Array(N);
  for (let x = 0; x < N; x++) {
    for (let y = 0; y < N; y++) line[y] = grid[x + N * y];
    lowerEnvelope(line).forEach((v, y) => { grid[x + N * y] = v; });
  }
  for (let y = 0; y < N; y++) {
    line.set(grid.subarray(N * y, N * y + N));
    grid.set(lowerEnvelope(line), N * y);
  }
  return grid;
}

function lowerEnvelope(f) {
  const n = f.length, out = new Float64Array(n);
  const place = new Int32Array(n), border = new Float64Array(n + 1);
  let k = 0;
  border[0] = -Infinity;
  border[1] = Infinity;
  for (let q = 1; q < n; q++) {
    let s;
    do {
      const p = place[k];
      s = (f[q] + q * q - f[p] - p * p) / (2 * q - 2 * p);
    } while (s <= border[k] && --k >= 0);
    k++;
    place[k] = q;
    border[k] = s;
    border[k + 1] = Infinity;
  }
  k = 0;
  for (let q = 0; q < n; q++) {
    while (border[k + 1] < q) k++;
    out[q] = (q - place[k]) ** 2 + f[place[k]];
  }
  return out;
}

/** The label of every pixel from distances [K][pixel]: the structure deepest inside, 0 where none is below zero. */
export function labelsFromDistances(distances) {
  const out = new Uint8Array(distances[0].length);
  for (let i = 0; i < out.length; i++) {
    let best = 0;
    for (let k = 0; k < distances.length; k++) {
      if (distances[k][i] < best) {
        best = distances[k][i];
        out[i] = k + 1;
      }
    }
  }
  return out;
}

/** Where a run has settled: the first step from which on a structure's Dice stays within `margin` of its last. */
export function settledAt(values, margin = 0.05) {
  const last = values[values.length - 1];
  let step = values.length - 1;
  while (step > 0 && Math.abs(values[step - 1] - last) <= margin) step--;
  return step;
}

/** The name of the region (name -> Uint8Array of 0 and 1) that a brushed one fits best, by Dice, or null below `least`. */
export function bestMatch(brushed, regions, least) {
  let best = null, score = least;
  for (const [name, region] of Object.entries(regions)) {
    const dice = diceOf(brushed, region, 1) ?? 0;
    if (dice > score) {
      best = name;
      score = dice;
    }
  }
  return best;
}
