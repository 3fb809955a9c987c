// Scene 6: erase or add something, and see what the atlas makes of it: recorded for four places, live where an engine is.
import { axial, brushOver, button, choice, el, legend, number, percent, slicePicture, slider } from "../parts.js";
import { loadVolume } from "../files.js";
import { liveBrush } from "../live.js";
import { numberIn, oneOf } from "../state.js";
import { bestMatch, meanOf, N } from "../volume.js";

const TRUST = ["believed", "crossed"];
const CASES = ["as-it-is", "no-left-ventricle", "no-right-atrium", "blob-in-lung", "ball-in-ventricle"];

export const fool = {
  id: "fool",
  right: 1,
  live: { preset: "watch", samples: 4 },
  async mount(stage) {
    const { book, say, ui, colors, names } = stage;
    const { cases, samples } = book.fool;
    let which = oneOf(stage.state, "case", CASES), drawScan = () => {}, z = numberIn(stage.state, "z", 8, 56, 32), asked = 0;
    let trust = oneOf(stage.state, "trust", TRUST);
    const told = book.crossed;
    const scan = slicePicture(say("scan")), mask = slicePicture(say("mask")), residual = slicePicture(say("residual")), agreement = slicePicture(say("agreement"));
    const volumes = el("p", { class: "note" });
    const where = {};
    for (const key of CASES.slice(1)) where[key] = await loadVolume(cases[key].where);
    const truth = await loadVolume(book.destroy.patient.labels);
    const heights = Object.fromEntries(CASES.slice(1).map((key) => [key, fullest(where[key])]));
    const draw = async () => {
      stage.set({ case: which === "as-it-is" ? undefined : which, z: z === 32 ? undefined : z, trust: trust === "crossed" ? trust : undefined });
      const held = live?.on() ?? false;
      trusting.hidden = held || !(which in told.cases);
      brushed.hidden = held;
      pick.querySelector(".choice-name").textContent = say(held ? "start" : "which");
      live?.scan(which);
      if (live?.answer()) return drawLive(++asked, live.answer());
      if (!held && trust === "crossed" && which in told.cases) return drawCrossed(++asked);
      caption("scan", "mask", "residual", "agreement");
      const mine = ++asked, one = cases[which];
      const [image, half, labels, votes] = await Promise.all([one.image, one.half, one.labels, one.agreement].map(loadVolume));
      if (mine !== asked) return;
      const flat = axial(image, z), found = axial(labels, z), made = axial(half, z);
      drawScan = () => scan.draw({ ...(live?.slice(flat, z) ?? { image: flat }), colors });
      drawScan();
      mask.draw({ image: flat, labels: found, outline: axial(truth, z), colors });
      residual.draw({ image: flat.map((v) => v / 3), heat: Float32Array.from(made, (v, i) => Math.max(0, Math.abs(v - flat[i]) / 127.5 - 0.12) * 1.6), colors });
      agreement.draw({ image: flat.map((v) => v / 3), heat: Float32Array.from(axial(votes, z), (v) => 1 - v / samples), colors });
      const ratio = (index) => `${names[book.structures[index].name]} ${number(one.ml[book.structures[index].name], 0)} ml (${ui("truly")} ${number(book.destroy.patient.ml[book.structures[index].name], 0)})`;
      volumes.textContent = say("volumes", { list: [0, 3].map(ratio).join(", ") });
      const place = which === "as-it-is" ? null : inPlace(where[which], labels, votes, samples);
      stage.see(place ? say("see", { filled: percent(place.filled), agree: percent(place.agree) }) : say("whole"));
    };
    // The same place as the model `told.model` sees it: believed, and crossed out.
    const drawCrossed = async (mine) => {
      const one = cases[which], found = told.cases[which];
      const [image, believed, crossed, filled] = await Promise.all([one.image, found.believed.labels, found.crossed.labels, found.half].map(loadVolume));
      if (mine !== asked) return;
      caption("scanCrossed", "maskBelieved", "maskCrossed", "filled");
      const flat = axial(image, z), place = axial(where[which], z), sure = axial(truth, z);
      const hatched = Float32Array.from(place, (v, i) => (v && (i + Math.floor(i / N)) % 4 < 2 ? 0.9 : 0));
      scan.draw({ image: flat, heat: hatched, colors });
      mask.draw({ image: flat, labels: axial(believed, z), outline: sure, colors });
      residual.draw({ image: flat, labels: axial(crossed, z), outline: sure, colors });
      agreement.draw({ image: axial(filled, z), colors });
      volumes.textContent = say("toldBy", { model: told.model.name, sha: told.model.sha256.slice(0, 12) });
      stage.see(say("seeCrossed", { believed: percent(found.believed.right), crossed: percent(found.crossed.right), diceBelieved: number(meanOf(found.believed.dice)), diceCrossed: number(meanOf(found.crossed.dice)) }));
    };
    // Two runs made now: of the scan as it was, and as the student brushed it.
    const drawLive = async (mine, { before, after, half, note, see }) => {
      const image = await loadVolume(cases[which].image);
      if (mine !== asked) return;
      caption("scanBrushed", "maskBefore", "maskAfter", "filled");
      const flat = axial(image, z), sure = axial(truth, z);
      drawScan = () => scan.draw({ ...live.slice(flat, z), colors });
      drawScan();
      const seen = live.slice(flat, z).image;
      mask.draw({ image: flat, labels: axial(before, z), outline: sure, colors });
      residual.draw({ image: seen, labels: axial(after, z), outline: sure, colors });
      agreement.draw({ image: axial(half, z), colors });
      volumes.textContent = note;
      stage.see(see);
    };
    const caption = (...keys) => [scan, mask, residual, agreement].forEach((view, i) => {
      view.words.textContent = say(keys[i]);
      view.canvas.setAttribute("aria-label", view === scan ? `${say(keys[i])}. ${ui("brushKeys")}` : say(keys[i]));
    });
    const go = (key) => {
      which = key;
      if (heights[key] !== undefined) height.set((z = heights[key]));
      for (const field of pick.querySelectorAll("input")) field.checked = field.value === key;
      if (key !== "as-it-is") stage.done();
      draw();
    };
    const height = slider({ name: ui("height"), low: 8, high: 56, step: 1, value: z, show: (v) => String(v), input: (v) => { z = v; draw(); } });
    const pick = choice({ name: say("which"), options: CASES.map((key) => [key, say(key)]), value: which, input: go });
    const trusting = choice({ name: say("trust"), options: TRUST.map((key) => [key, say(key)]), value: trust, input: (key) => { trust = key; draw(); } });
    const brushed = el("p", { class: "answer", role: "status" }, say("brush"));
    const live = stage.engine ? liveBrush(stage, truth, () => draw()) : null;
    const brush = brushOver(scan.canvas, N, () => (live?.on() ? live.radius() : 3), (region, column, row) => {
      if (stage.locked()) return true;
      if (live?.on()) {
        const had = live.answer();
        live.mark(N - 0.5 - column, N - 0.5 - row, z);
        if (had) draw();
        else drawScan();
        return false;
      }
      const pen = scan.canvas.getContext("2d");
      pen.fillStyle = "rgb(255 200 60 / 0.5)";
      for (let i = 0; i < region.length; i++) if (region[i]) pen.fillRect((i % N) * 5, Math.floor(i / N) * 5, 5, 5);
      const best = bestMatch(region, Object.fromEntries(CASES.slice(1).map((key) => [key, axial(where[key], z)])), 0.35);
      brushed.textContent = best ? say("matched", { what: say(best) }) : say("notYet");
      if (best) {
        brush.clear();
        go(best);
      }
      return best !== null;
    });
    scan.note.textContent = ui("brushKeys");
    const clean = button(say("clean"), () => { brush.clear(); live?.clear(); draw(); });
    stage.picture.append(el("div", { class: "four" }, scan.box, mask.box, residual.box, agreement.box), legend(book.structures, names), volumes);
    const { parts } = live ?? { parts: {} };
    const row = el("div", { class: "row" }, brushed, parts.said ?? "", parts.ask ?? "", clean);
    stage.controls.append(parts.pick ?? "", row, pick, trusting, parts.size ?? "", height.box);
    await draw();
  },
};

/** The slice that shows most of a region. */
function fullest(region) {
  let best = 32, most = -1;
  for (let z = 0; z < N; z++) {
    let count = 0;
    for (let i = N * N * z; i < N * N * (z + 1); i++) count += region[i];
    if (count > most) { most = count; best = z; }
  }
  return best;
}

/** What stands in a region: share that got a structure's label, and mean agreement of the seeds there. */
function inPlace(region, labels, votes, samples) {
  let all = 0, filled = 0, agree = 0;
  for (let i = 0; i < region.length; i++) {
    if (!region[i]) continue;
    all++;
    if (labels[i]) filled++;
    agree += votes[i] / samples;
  }
  return { filled: filled / all, agree: agree / all };
}
