// Scene 4: the same noise with and without the patient's image.
import { axial, el, legend, lines, number, slicePicture, slider } from "../parts.js";
import { loadVolume } from "../files.js";
import { numberIn } from "../state.js";
import { meanOf } from "../volume.js";

export const unguided = {
  id: "unguided",
  right: 1,
  live: { preset: "watch", noise: 1, beside: "unguided" },
  async mount(stage) {
    const { book, say, ui, colors, names } = stage;
    const runs = [book.unguided, book.back], kept = book.back.kept;
    let at = numberIn(stage.state, "step", 0, kept.length - 1, 0), z = numberIn(stage.state, "z", 12, 52, 32), asked = 0;
    const views = ["off", "on"].map((key) => slicePicture(say(key)));
    const chart = el("div", {});
    const truth = await loadVolume(book.destroy.patient.labels);
    const means = runs.map((run) => run.steps.map((step) => meanOf(step.dice)));
    const draw = async () => {
      const mine = ++asked;
      const parts = await Promise.all(runs.flatMap((run) => [loadVolume(run.steps[kept[at]].image), loadVolume(run.steps[kept[at]].labels)]));
      if (mine !== asked) return;
      views.forEach((view, i) => {
        view.draw({ image: axial(parts[2 * i], z), labels: axial(parts[2 * i + 1], z), outline: axial(truth, z), colors });
        view.note.textContent = say("dice", { dice: number(means[i][kept[at]]), t: number(runs[i].steps[kept[at]].t) });
      });
      chart.replaceChildren(lines({ x: means[0].map((_, i) => i + 1), series: [{ name: say("shortOff"), values: means[0], color: "var(--mark)" }, { name: say("shortOn"), values: means[1], color: "var(--accent)", wide: true }], cursor: kept[at] + 1, xName: ui("step"), yName: "Dice", alt: say("chart") }));
      stage.see(say("see", { step: kept[at] + 1, off: number(means[0][kept[at]]), on: number(means[1][kept[at]]) }));
      stage.set({ step: at || undefined, z: z === 32 ? undefined : z });
      if (at === kept.length - 1) stage.done();
    };
    const walk = slider({ name: ui("step"), low: 0, high: kept.length - 1, step: 1, value: at, show: (v) => `${kept[v] + 1} / ${means[0].length}`, input: (v) => { at = v; draw(); } });
    const height = slider({ name: ui("height"), low: 12, high: 52, step: 1, value: z, show: (v) => String(v), input: (v) => { z = v; draw(); } });
    stage.picture.append(el("div", { class: "pair" }, ...views.map((v) => v.box)), legend(book.structures, names), chart);
    stage.controls.append(walk.box, height.box);
    await draw();
  },
};
