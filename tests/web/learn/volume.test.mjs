import assert from "node:assert/strict";
import test from "node:test";
import { N, bestMatch, diceOf, labelsFromDistances, meanOf, settledAt, signedDistance, sliceOf, volumeFromTiles, voxelAt } from "./js/volume.js";

test("tiles become a volume: tile z, row y, column x", () => {
  const side = 8 * N, rgba = new Uint8ClampedArray(4 * side * side);
  const put = (x, y, z, value) => { rgba[4 * ((Math.floor(z / 8) * N + y) * side + (z % 8) * N + x)] = value; };
  put(1, 2, 3, 11); put(63, 0, 8, 22); put(5, 63, 63, 33);
  const volume = volumeFromTiles(rgba);
  assert.equal(volume[1 + N * (2 + N * 3)], 11);
  assert.equal(volume[63 + N * (0 + N * 8)], 22);
  assert.equal(volume[5 + N * (63 + N * 63)], 33);
  assert.equal(volume.reduce((a, b) => a + b, 0), 66);
});

test("on an axial slice the patient's right is on the left and the front on top", () => {
  const volume = new Uint8Array(N ** 3);
  volume[60 + N * (62 + N * 10)] = 9; // far right, far in front
  const slice = sliceOf(volume, "axial", 10);
  assert.equal(slice[3 + N * 1], 9);
  assert.equal(voxelAt("coronal", 5, 0, 0), 63 + N * (5 + N * 63));
  assert.equal(voxelAt("sagittal", 5, 0, 0), 5 + N * (63 + N * 63));
});

test("Dice: by hand", () => {
  assert.equal(diceOf([1, 1, 0, 2], [1, 0, 0, 2], 1), 2 / 3);
  assert.equal(diceOf([0, 0], [0, 0], 1), null);
  assert.equal(meanOf([null, 0.5, 1]), 0.75);
  assert.equal(meanOf([null]), null);
});

test("the distance transform equals the search over all pixels", () => {
  const labels = new Uint8Array(N * N);
  let seed = 5;
  for (let i = 0; i < 60; i++) {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    labels[seed % (N * N)] = 1;
  }
  const found = signedDistance(labels, 1);
  for (let i = 0; i < N * N; i += 37) {
    let best = Infinity;
    for (let j = 0; j < N * N; j++) {
      if (labels[j] !== labels[i]) best = Math.min(best, Math.hypot((i % N) - (j % N), Math.floor(i / N) - Math.floor(j / N)));
    }
    assert.ok(Math.abs(found[i] - (labels[i] ? 0.5 - best : best - 0.5)) < 1e-4, `pixel ${i}`);
  }
});

test("labels come back from their distances", () => {
  const labels = new Uint8Array(N * N);
  for (let y = 10; y < 30; y++) for (let x = 8; x < 40; x++) labels[x + N * y] = x < 20 ? 1 : 2;
  assert.deepEqual(labelsFromDistances([1, 2].map((k) => signedDistance(labels, k))), labels);
});

test("a run has settled where it stays near its end", () => {
  assert.equal(settledAt([0.1, 0.9, 0.2, 0.86, 0.88, 0.9]), 3);
  assert.equal(settledAt([0.9, 0.9]), 0);
  assert.equal(settledAt([0, 0.5, 1]), 2);
});

test("what is brushed is matched to the region it fits best, or to none", () => {
  const a = Uint8Array.from([1, 1, 1, 0, 0, 0]), b = Uint8Array.from([0, 0, 0, 1, 1, 1]);
  assert.equal(bestMatch(Uint8Array.from([1, 1, 0, 0, 0, 0]), { a, b }, 0.3), "a");
  assert.equal(bestMatch(Uint8Array.from([0, 0, 1, 1, 1, 1]), { a, b }, 0.3), "b");
  assert.equal(bestMatch(Uint8Array.from([1, 0, 0, 0, 0, 0]), { a, b }, 0.6), null);
});
