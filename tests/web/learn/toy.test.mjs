import assert from "node:assert/strict";
import test from "node:test";
import { backward, drawCloud, newNetwork, newTraining, shareInside, walkPairs, zerosLike } from "./js/toy.js";

test("the gradient written by hand is that of the loss", () => {
  const network = newNetwork(3), gradients = zerosLike(network), at = [0.3, -0.2, 0.6, 0.4, 0.5, -0.5];
  backward(network, gradients, ...at);
  for (const [l, i] of [[0, 0], [0, 37], [1, 5], [1, 300], [2, 1], [2, 40]]) {
    for (const kind of ["w", "b"]) {
      const values = network[l][kind], index = i % values.length, before = values[index], h = 1e-2;
      values[index] = before + h;
      const above = backward(network, zerosLike(network), ...at);
      values[index] = before - h;
      const below = backward(network, zerosLike(network), ...at);
      values[index] = before;
      const slope = (above - below) / (2 * h);
      assert.ok(Math.abs(slope - gradients[l][kind][index]) < 2e-3 * Math.max(1, Math.abs(slope)), `${l} ${kind} ${index}: ${slope} ${gradients[l][kind][index]}`);
    }
  }
});

test("trained, it draws the cloud, and sliced it answers with the cloud's own conditional law", () => {
  const cloud = drawCloud(1, 1500), training = newTraining(cloud, 2);
  while (training.steps < training.total) training.step();
  const drawn = walkPairs(training.network, 5, 600, 30)[30], many = drawCloud(9, 60000);
  assert.ok(Math.abs(shareInside(drawn) - shareInside(many)) < 0.08);
  for (const x of [-0.5, 0.3, 0.5, 0.7]) {
    const sliced = walkPairs(training.network, 6, 600, 30, x)[30];
    const [found, truth] = [shareInside(sliced), shareInside(many, x)];
    assert.ok(Math.abs(found - truth) < 0.13, `at ${x}: ${found}, in truth ${truth}`);
    assert.ok(sliced.every((v, i) => i % 2 || v === Math.fround(x)), "the given half is held");
  }
});

test("a share counts what is inside, near a line if asked", () => {
  const pairs = Float32Array.from([0, -1, 0, 1, 0.5, -1, 0.5, -1]);
  assert.equal(shareInside(pairs), 0.75);
  assert.equal(shareInside(pairs, 0), 0.5);
  assert.equal(shareInside(pairs, -1), null);
});
