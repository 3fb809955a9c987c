// The state of a scene in the address: #scene=back&step=7&lang=de

/** What an address' hash says: plain names to strings. */
export function readHash(hash) {
  return Object.fromEntries(new URLSearchParams(hash.replace(/^#/, "")));
}

/** The hash of a state; empty and missing values are left out, `scene` comes first. */
export function writeHash(state) {
  const query = new URLSearchParams();
  const names = Object.keys(state).sort((a, b) => (b === "scene") - (a === "scene") || a.localeCompare(b));
  for (const name of names) {
    if (state[name] !== undefined && state[name] !== null && state[name] !== "") query.set(name, String(state[name]));
  }
  return `#${query}`;
}

/** A number of the state within [low, high], or `fallback`. */
export function numberIn(state, name, low, high, fallback) {
  const text = state[name];
  const value = text === undefined || text === "" ? NaN : Number(text);
  return Number.isFinite(value) ? Math.min(high, Math.max(low, value)) : fallback;
}

/** One of `allowed`, or the first of them. */
export function oneOf(state, name, allowed) {
  return allowed.includes(state[name]) ? state[name] : allowed[0];
}
