// A diffusion model of pairs that trains in seconds: two numbers a patient instead of two volumes.
//
// A pair is z = (x, m): intensity of one voxel, and the signed distance of the structure's border there, both about
// [-1, 1]. A network of two hidden layers sees both with noise at levels of their own, and both levels, and predicts
// the pair without noise: the same idea as the large one (diffatlas.train), with the gradient written out by hand.
import { alphaOf, normalFrom, sigmaOf, uniformFrom } from "./noise.js";

const INPUTS = 8, HIDDEN = 32, OUTPUTS = 2;

/** `count` pairs [x, m, x, m, ...]: dark outside, bright inside, and bright vessels outside that make it ambiguous. */
export function drawCloud(seed, count) {
  const uniform = uniformFrom(seed), normal = normalFrom(seed + 1);
  const out = new Float32Array(2 * count);
  for (let i = 0; i < count; i++) {
    const which = uniform();
    const [x, m, sx, sm] = which < 0.42 ? [0.55, -0.55, 0.14, 0.16] : which < 0.8 ? [-0.5, 0.5, 0.18, 0.18] : [0.4, 0.62, 0.2, 0.12];
    out[2 * i] = x + sx * normal();
    out[2 * i + 1] = m + sm * normal();
  }
  return out;
}

/** A network with random weights: [weights, biases] of three layers. */
export function newNetwork(seed) {
  const normal = normalFrom(seed);
  const layer = (from, to, scale) => ({
    w: Float32Array.from({ length: from * to }, () => (scale * normal()) / Math.sqrt(from)),
    b: new Float32Array(to),
    from, to,
  });
  return [layer(INPUTS, HIDDEN, 1.6), layer(HIDDEN, HIDDEN, 1.6), layer(HIDDEN, OUTPUTS, 0.5)];
}

/** What the network is shown of a noisy pair: both numbers, each also scaled by its level, and both levels. */
function features(out, x, m, tx, tm) {
  out[0] = x; out[1] = m;
  out[2] = alphaOf(tx); out[3] = sigmaOf(tx); out[4] = alphaOf(tm); out[5] = sigmaOf(tm);
  out[6] = x * alphaOf(tx); out[7] = m * alphaOf(tm);
}

function forward(layer, input, output, active) {
  for (let j = 0; j < layer.to; j++) {
    let sum = layer.b[j];
    for (let i = 0, at = j * layer.from; i < layer.from; i++) sum += layer.w[at + i] * input[i];
    output[j] = active ? Math.tanh(sum) : sum;
  }
}

const given = new Float32Array(INPUTS), first = new Float32Array(HIDDEN), second = new Float32Array(HIDDEN);

/** The pair that the network believes in, written to `out` [2]. */
export function predict(network, x, m, tx, tm, out) {
  features(given, x, m, tx, tm);
  forward(network[0], given, first, true);
  forward(network[1], first, second, true);
  forward(network[2], second, out, false);
}

/** Loss (squared error summed over the pair) of one noisy pair, its gradient added to `gradients`. */
export function backward(network, gradients, x, m, tx, tm, trueX, trueM) {
  const out = new Float32Array(OUTPUTS);
  predict(network, x, m, tx, tm, out);
  const delta = [2 * (out[0] - trueX), 2 * (out[1] - trueM)];
  const d2 = through(network[2], gradients[2], second, delta);
  for (let i = 0; i < HIDDEN; i++) d2[i] *= 1 - second[i] * second[i];
  const d1 = through(network[1], gradients[1], first, d2);
  for (let i = 0; i < HIDDEN; i++) d1[i] *= 1 - first[i] * first[i];
  through(network[0], gradients[0], given, d1);
  return (out[0] - trueX) ** 2 + (out[1] - trueM) ** 2;
}

function through(layer, gradient, input, delta) {
  const back = new Float32Array(layer.from);
  for (let j = 0; j < layer.to; j++) {
    const d = delta[j], at = j * layer.from;
    gradient.b[j] += d;
    for (let i = 0; i < layer.from; i++) {
      gradient.w[at + i] += d * input[i];
      back[i] += d * layer.w[at + i];
    }
  }
  return back;
}

export function zerosLike(network) {
  return network.map((l) => ({ ...l, w: new Float32Array(l.w.length), b: new Float32Array(l.b.length) }));
}

/** A training run: `step()` does one update of Adam and returns its mean loss. */
export function newTraining(cloud, seed, batch = 64, rate = 0.006, total = 900) {
  const network = newNetwork(seed), m1 = zerosLike(network), m2 = zerosLike(network);
  const uniform = uniformFrom(seed + 2), normal = normalFrom(seed + 3);
  let steps = 0;
  const step = () => {
    const gradients = zerosLike(network);
    let loss = 0;
    for (let b = 0; b < batch; b++) {
      const i = Math.floor((uniform() * cloud.length) / 2);
      const [x, m] = [cloud[2 * i], cloud[2 * i + 1]];
      // As the large model: half with both levels alike, half with a clean image half.
      const tm = 0.02 + 0.98 * uniform(), tx = uniform() < 0.5 ? tm : 0;
      const nx = alphaOf(tx) * x + sigmaOf(tx) * normal(), nm = alphaOf(tm) * m + sigmaOf(tm) * normal();
      loss += backward(network, gradients, nx, nm, tx, tm, x, m);
    }
    steps++;
    const r = rate * Math.max(0.05, 1 - steps / total);
    network.forEach((layer, l) => {
      adam(layer.w, gradients[l].w, m1[l].w, m2[l].w, batch, r, steps);
      adam(layer.b, gradients[l].b, m1[l].b, m2[l].b, batch, r, steps);
    });
    return loss / batch;
  };
  return { network, step, get steps() { return steps; }, total };
}

function adam(values, gradient, m1, m2, batch, rate, steps) {
  const c1 = 1 - 0.9 ** steps, c2 = 1 - 0.999 ** steps;
  for (let i = 0; i < values.length; i++) {
    const g = gradient[i] / batch;
    m1[i] = 0.9 * m1[i] + 0.1 * g;
    m2[i] = 0.999 * m2[i] + 0.001 * g * g;
    values[i] -= (rate * (m1[i] / c1)) / (Math.sqrt(m2[i] / c2) + 1e-8);
  }
}

/**
 * Walk `count` pairs out of noise in `steps` deterministic steps (DDIM); `intensity` null draws both halves, a number
 * gives the clean intensity to every pair: that is conditioning. Returns the walk: steps + 1 arrays [x, m, x, m, ...].
 */
export function walkPairs(network, seed, count, steps, intensity = null) {
  const normal = normalFrom(seed);
  let pairs = Float32Array.from({ length: 2 * count }, normal);
  const walk = [];
  const x0 = new Float32Array(2);
  for (let s = 0; s <= steps; s++) {
    if (intensity !== null) for (let i = 0; i < count; i++) pairs[2 * i] = intensity;
    walk.push(pairs);
    if (s === steps) break;
    const t = 1 - s / steps, next = 1 - (s + 1) / steps;
    const moved = new Float32Array(2 * count);
    for (let i = 0; i < count; i++) {
      const [x, m] = [pairs[2 * i], pairs[2 * i + 1]];
      predict(network, x, m, intensity === null ? t : 0, t, x0);
      for (let h = 0; h < 2; h++) {
        const noise = (pairs[2 * i + h] - alphaOf(t) * x0[h]) / Math.max(sigmaOf(t), 1e-6);
        moved[2 * i + h] = alphaOf(next) * x0[h] + sigmaOf(next) * noise;
      }
    }
    pairs = moved;
  }
  return walk;
}

/** Share of pairs inside the structure (m < 0); with `near`, only among pairs whose intensity is within 0.08 of it. */
export function shareInside(pairs, near = null) {
  let inside = 0, all = 0;
  for (let i = 0; i < pairs.length; i += 2) {
    if (near !== null && Math.abs(pairs[i] - near) > 0.08) continue;
    all++;
    if (pairs[i + 1] < 0) inside++;
  }
  return all ? inside / all : null;
}
