import assert from "node:assert/strict";
import test from "node:test";
import { alphaOf, normals, sigmaOf, uniformFrom } from "./js/noise.js";

test("the schedule is the engine's: cos and sin of pi t / 2, exactly nothing left at 1", () => {
  assert.equal(alphaOf(0), 1);
  assert.equal(sigmaOf(0), 0);
  assert.equal(alphaOf(1), 0);
  assert.ok(Math.abs(alphaOf(0.5) - Math.SQRT1_2) < 1e-12);
  assert.ok(Math.abs(alphaOf(1 / 3) - Math.sqrt(3) / 2) < 1e-12);
  for (const t of [0, 0.1, 0.33, 0.9, 1]) assert.ok(Math.abs(alphaOf(t) ** 2 + sigmaOf(t) ** 2 - 1) < 1e-12);
});

test("normal numbers have mean 0, variance 1 and a tail of 4.55 % beyond two", () => {
  const values = normals(1, 100000);
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length;
  const tail = values.filter((v) => Math.abs(v) > 2).length / values.length;
  assert.ok(Math.abs(mean) < 0.015 && Math.abs(variance - 1) < 0.02 && Math.abs(tail - 0.0455) < 0.004);
});

test("a seed gives the same numbers again, another seed others", () => {
  assert.deepEqual(normals(7, 5), normals(7, 5));
  assert.notDeepEqual(normals(7, 5), normals(8, 5));
  const next = uniformFrom(3);
  for (let i = 0; i < 1000; i++) {
    const u = next();
    assert.ok(u >= 0 && u < 1);
  }
});
