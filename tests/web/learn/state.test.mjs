import assert from "node:assert/strict";
import test from "node:test";
import { numberIn, oneOf, readHash, writeHash } from "./js/state.js";

test("a state comes back from its address", () => {
  const state = { scene: "rho", rho: 0.3, scan: "slab missing & more", lang: "de" };
  assert.deepEqual(readHash(writeHash(state)), { scene: "rho", rho: "0.3", scan: "slab missing & more", lang: "de" });
  assert.ok(writeHash({ z: 1, scene: "back", step: undefined, t: 0 }).startsWith("#scene=back"));
  assert.deepEqual(readHash(""), {});
});

test("what an address asks for is kept within what there is", () => {
  assert.equal(numberIn({ z: "99" }, "z", 12, 52, 32), 52);
  assert.equal(numberIn({ z: "-5" }, "z", 12, 52, 32), 12);
  for (const z of ["", "nonsense", "Infinity", undefined]) assert.equal(numberIn({ z }, "z", 12, 52, 32), 32);
  assert.equal(oneOf({ a: "x" }, "a", ["x", "y"]), "x");
  assert.equal(oneOf({ a: "z" }, "a", ["x", "y"]), "x");
});
