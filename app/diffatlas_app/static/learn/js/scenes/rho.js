// Scene 5: one slider from the image to the atlas, on three scans of one patient.
import { axial, choice, el, legend, lines, number, slicePicture, slider } from "../parts.js";
import { loadVolume } from "../files.js";
import { numberIn, oneOf } from "../state.js";
import { meanOf } from "../volume.js";

const SCANS = ["good", "noisy", "slab"];

export const rho = {
  id: "rho",
  right: null,
  live: { preset: "watch", steps: 10 },
  async mount(stage) {
    const { book, say, ui, colors, names } = stage;
    const data = book.slider;
    let at = numberIn(stage.state, "rho", 0, 1, 0) * 10, scan = oneOf(stage.state, "scan", SCANS), z = numberIn(stage.state, "z", 12, 52, 32), asked = 0;
    at = Math.round(at);
    const views = [slicePicture(say("scan")), slicePicture(say("answer"))];
    const chart = el("div", {});
    const truth = await loadVolume(book.destroy.patient.labels);
    const curves = Object.fromEntries(SCANS.map((name) => [name, data.scans[name].runs.map((run) => meanOf(run.dice))]));
    const best = (values) => data.rho[values.indexOf(Math.max(...values))];
    const draw = async () => {
      const mine = ++asked, run = data.scans[scan].runs[at];
      const [image, labels] = await Promise.all([loadVolume(data.scans[scan].image), loadVolume(run.labels)]);
      if (mine !== asked) return;
      views[0].draw({ image: axial(image, z), colors });
      views[1].draw({ image: axial(image, z), labels: axial(labels, z), outline: axial(truth, z), colors });
      chart.replaceChildren(lines({ x: data.rho, series: SCANS.map((name) => ({ name: say(name), values: curves[name], color: name === scan ? "var(--accent)" : "var(--soft)", wide: name === scan })), low: 0.4, cursor: data.rho[at], xName: say("axis"), yName: "Dice", alt: say("chart"), dots: true }));
      stage.see(say("see", { rho: number(data.rho[at], 1), scan: say(scan), dice: number(curves[scan][at], 3) }));
      stage.set({ rho: at ? data.rho[at] : undefined, scan: scan === "good" ? undefined : scan, z: z === 32 ? undefined : z });
      if (at > 5) stage.done();
    };
    const walk = slider({ name: say("slider"), low: 0, high: 10, step: 1, value: at, show: (v) => number(data.rho[v], 1), input: (v) => { at = v; draw(); } });
    const pick = choice({ name: say("which"), options: SCANS.map((name) => [name, say(name)]), value: scan, input: (v) => { scan = v; draw(); } });
    const height = slider({ name: ui("height"), low: 12, high: 52, step: 1, value: z, show: (v) => String(v), input: (v) => { z = v; draw(); } });
    const spread = Math.max(...curves.noisy) - Math.min(...curves.noisy);
    stage.answer(say("measured", { list: SCANS.map((name) => `${say(name)}: ${number(Math.min(...curves[name]), 3)}–${number(Math.max(...curves[name]), 3)}, ${say("bestAt", { rho: number(best(curves[name]), 1) })}`).join("; ") }), spread < 0.03 ? 0 : spread < 0.1 ? 1 : 2);
    stage.picture.append(el("div", { class: "pair" }, ...views.map((v) => v.box)), legend(book.structures, names), chart);
    stage.controls.append(pick, walk.box, height.box);
    await draw();
  },
};
