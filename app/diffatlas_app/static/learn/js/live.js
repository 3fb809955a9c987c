// Scene 6 with an engine behind the page: what the brush marks is crossed out, wiped out or made bright, and run.
import { markBall, packBits, shareRight, unpackBytes } from "./brush.js";
import { callEngine } from "./engine.js";
import { axial, button, choice, el, number, percent, slider } from "./parts.js";
import { diceOf, meanOf, N } from "./volume.js";

const TOOLS = ["cross", "wipe", "bright", "picks"];
// Of the model's window, 0 to 255: as heart muscle, as blood with contrast; none: crossed out.
const FILLS = { cross: null, wipe: 75, bright: 153 };

/**
 * The live brush. `changed`: draw again, after the tool, the place or the answer changed. Returns what the scene asks
 * of it: its controls, whether it holds the brush, the marked slice, and the last answer.
 */
export function liveBrush(stage, truth, changed) {
  const { book, say } = stage;
  const place = new Uint8Array(N ** 3);
  let tool = TOOLS[0], radius = 5, answer = null, leave = null, which = "";
  const said = el("p", { class: "answer", role: "status" });
  const tell = (text) => { said.textContent = text; };
  const stop = () => {
    leave?.();
    leave = null;
    ask.disabled = false;
  };
  const forget = () => {
    stop();
    answer = null;
  };
  const clear = () => {
    forget();
    place.fill(0);
    tell(say("brushLive"));
  };
  const show = async (found) => {
    const [before, after, half] = await Promise.all([found.before, found.after, found.half].map(unpackBytes));
    const dice = (labels) => number(meanOf(book.structures.map((_, k) => diceOf(labels, truth, k + 1))));
    answer = { before, after, half, note: [say("askedOf", { model: found.model, sha: found.sha256.slice(0, 12) }), tool === "cross" && !found.told ? say("untold") : ""].join(" ") };
    answer.see = say("seeLive", { before: percent(shareRight(place, before, truth)), after: percent(shareRight(place, after, truth)), diceBefore: dice(before), diceAfter: dice(after) });
    tell(say("answered"));
    stage.done();
    changed();
  };
  const heard = (news) => {
    if (news.over || news.error !== undefined) stop();
    if (news.error !== undefined) tell(news.error || say("lost"));
    else if (news.over) show(news);
    else if (news.ahead) tell(say("waiting", { ahead: news.ahead }));
    else if (news.step) tell(say("running", { step: news.step, of: news.of }));
  };
  const ask = button(say("ask"), () => {
    if (!place.some((v) => v)) return tell(say("brushLive"));
    forget();
    ask.disabled = true;
    tell(say("asked"));
    changed();
    leave = callEngine(stage.engine, "brush", [which, packBits(place), FILLS[tool]], heard);
  }, "primary");
  const size = slider({ name: say("size"), low: 2, high: 10, step: 1, value: radius, show: (v) => `${2 * v * book.spacing_mm[0]} mm`, input: (v) => { radius = v; } });
  const on = () => tool !== "picks";
  const pick = choice({ name: say("tool"), options: TOOLS.map((key) => [key, say(key)]), value: tool, input: (key) => {
    tool = key;
    if (!on()) clear();
    else forget();
    for (const part of [said, ask, size.box]) part.hidden = !on();
    changed();
  } });
  clear();
  // Another scene: nobody listens any more.
  addEventListener("hashchange", stop, { once: true });
  return {
    parts: { pick, said, ask, size: size.box },
    on,
    clear,
    radius: () => radius,
    answer: () => (on() ? answer : null),
    /** A place belongs to one scan. */
    scan(key) {
      if (which !== key) clear();
      which = key;
    },
    mark(x, y, z) {
      forget();
      markBall(place, x, y, z, radius);
    },
    /** What `drawSlice` takes of the scan's slice `flat` at height z, with the place in it. */
    slice(flat, z) {
      if (!on()) return { image: flat };
      const here = axial(place, z);
      if (FILLS[tool] !== null) return { image: flat.map((v, i) => (here[i] ? FILLS[tool] : v)) };
      return { image: flat, heat: Float32Array.from(here, (v, i) => (v && (i + Math.floor(i / N)) % 4 < 2 ? 0.9 : 0)) };
    },
  };
}
