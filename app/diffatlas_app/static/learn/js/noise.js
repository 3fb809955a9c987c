// Noise as the model knows it: x_t = alpha(t) x_0 + sigma(t) eps with the cosine schedule of diffatlas.diffusion.schedule.

/** Share of the data that is left at noise level t in [0, 1]. */
export function alphaOf(t) {
  return t >= 1 ? 0 : Math.cos((t * Math.PI) / 2);
}

/** Share of the noise at noise level t in [0, 1]; alpha^2 + sigma^2 = 1. */
export function sigmaOf(t) {
  return Math.sin((t * Math.PI) / 2);
}

/** A generator of uniform numbers in [0, 1) from a whole number (mulberry32): the same seed gives the same numbers. */
export function uniformFrom(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let x = Math.imul(a ^ (a >>> 15), 1 | a);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296;
  };
}

/** A generator of standard normal numbers (Box and Muller). */
export function normalFrom(seed) {
  const uniform = uniformFrom(seed);
  let spare = null;
  return () => {
    if (spare !== null) {
      const value = spare;
      spare = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    const angle = 2 * Math.PI * uniform();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
}

/** `count` standard normal numbers. */
export function normals(seed, count) {
  const next = normalFrom(seed);
  const out = new Float32Array(count);
  for (let i = 0; i < count; i++) out[i] = next();
  return out;
}
