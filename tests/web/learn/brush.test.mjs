import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import test from "node:test";
import { markBall, packBits, shareRight, unpackBytes } from "./js/brush.js";
import { N } from "./js/volume.js";

test("a ball of radius 1 is its centre and six neighbours; at a corner what is inside", () => {
  const place = new Uint8Array(N ** 3);
  markBall(place, 10, 20, 30, 1);
  assert.equal(place.reduce((a, b) => a + b, 0), 7);
  assert.equal(place[10 + N * (20 + N * 31)], 1);
  markBall(place.fill(0), 0, 0, 63, 1);
  assert.equal(place.reduce((a, b) => a + b, 0), 4);
  markBall(place.fill(0), 5.5, 5.5, 5.5, 0.9);
  assert.equal(place.reduce((a, b) => a + b, 0), 8);
});

test("bits: the first voxel is the highest bit", () => {
  const place = new Uint8Array(24);
  place[0] = place[9] = place[23] = 1;
  assert.deepEqual([...Buffer.from(packBits(place), "base64")], [128, 64, 1]);
});

test("an answer is unpacked", async () => {
  const bytes = Uint8Array.from({ length: 5000 }, (_, i) => i % 251);
  assert.deepEqual(await unpackBytes(gzipSync(bytes).toString("base64")), bytes);
});

test("share of right labels is counted within the place", () => {
  assert.equal(shareRight([1, 1, 0, 1, 1], [3, 2, 9, 0, 1], [3, 2, 1, 0, 2]), 0.75);
  assert.equal(shareRight([0], [1], [1]), null);
});
