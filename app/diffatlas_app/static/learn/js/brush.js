// A place brushed over in a volume, and how it travels to the engine and an answer back.
import { N } from "./volume.js";

/** Mark the ball of `radius` voxels about (x, y, z) in `place`, Uint8Array of N^3. */
export function markBall(place, x, y, z, radius) {
  const range = (v) => [Math.max(0, Math.ceil(v - radius)), Math.min(N - 1, Math.floor(v + radius))];
  const [[x0, x1], [y0, y1], [z0, z1]] = [x, y, z].map(range);
  for (let c = z0; c <= z1; c++) {
    for (let b = y0; b <= y1; b++) {
      for (let a = x0; a <= x1; a++) {
        if ((a - x) ** 2 + (b - y) ** 2 + (c - z) ** 2 <= radius ** 2) place[a + N * (b + N * c)] = 1;
      }
    }
  }
}

/** A bit a voxel, the first of eight the highest, in base64. */
export function packBits(place) {
  const bytes = new Uint8Array(place.length / 8);
  for (let i = 0; i < place.length; i++) if (place[i]) bytes[i >> 3] |= 128 >> (i & 7);
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** Bytes that were packed with gzip and base64. */
export async function unpackBytes(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Share of a place's voxels whose label is the true one, and mean Dice of the structures in the whole volume. */
export function shareRight(place, labels, truth) {
  let all = 0, right = 0;
  for (let i = 0; i < place.length; i++) {
    if (!place[i]) continue;
    all++;
    if (labels[i] === truth[i]) right++;
  }
  return all ? right / all : null;
}
