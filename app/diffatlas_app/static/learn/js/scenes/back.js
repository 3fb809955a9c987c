// Scene 3: a run walked back step by step, in four linked views.
import { alphaOf, normals, sigmaOf } from "../noise.js";
import { axial, el, legend, lines, number, rgb, slicePicture, slider, surfacePicture } from "../parts.js";
import { loadVolume } from "../files.js";
import { numberIn } from "../state.js";
import { settledAt } from "../volume.js";

export const back = {
  id: "back",
  right: null,
  live: { preset: "watch", noise: 1 },
  async mount(stage) {
    const { book, say, ui, colors, names } = stage;
    const { steps, kept } = book.back;
    let at = numberIn(stage.state, "step", 0, kept.length - 1, 0), z = numberIn(stage.state, "z", 12, 52, 32), asked = 0;
    const noise = normals(7, 64 ** 3);
    const views = ["noisy", "half", "both", "patient"].map((key) => slicePicture(say(key)));
    const solid = surfacePicture(say("solid"), ui("turn"), colors);
    const chart = el("div", {});
    const scan = await loadVolume("patient");
    const draw = async () => {
      const mine = ++asked, step = steps[kept[at]];
      const [image, labels] = await Promise.all([loadVolume(step.image), loadVolume(step.labels)]);
      if (mine !== asked) return;
      const flat = axial(scan, z), half = axial(image, z), mask = axial(labels, z);
      const a = alphaOf(step.t), s = sigmaOf(step.t), eps = axial(noise, z);
      views[0].draw({ image: Uint8ClampedArray.from(flat, (v, i) => 127.5 * (a * (v / 127.5 - 1) + s * eps[i] + 1)), colors });
      views[1].draw({ image: half, colors });
      views[2].draw({ image: half, labels: mask, colors });
      views[3].draw({ image: flat, labels: mask, colors });
      solid.show(labels);
      const series = book.structures.map((structure, k) => ({ name: names[structure.name], values: steps.map((one) => one.dice[k]), color: rgb(structure.color) }));
      chart.replaceChildren(lines({ x: steps.map((_, i) => i + 1), series, cursor: kept[at] + 1, xName: ui("step"), yName: "Dice", alt: say("chart") }));
      stage.see(say("see", { step: kept[at] + 1, t: number(step.t), dice: number(step.dice.reduce((p, q) => p + q, 0) / 5) }));
      stage.set({ step: at || undefined, z: z === 32 ? undefined : z });
      if (at === kept.length - 1) stage.done();
    };
    const walk = slider({ name: ui("step"), low: 0, high: kept.length - 1, step: 1, value: at, show: (v) => `${kept[v] + 1} / ${steps.length}`, input: (v) => { at = v; draw(); } });
    const height = slider({ name: ui("height"), low: 12, high: 52, step: 1, value: z, show: (v) => String(v), input: (v) => { z = v; draw(); } });
    const order = book.structures
      .map((structure, k) => ({ name: names[structure.name], step: settledAt(steps.map((s) => s.dice[k])) + 1 }))
      .sort((p, q) => p.step - q.step);
    stage.answer(say("settled", { list: order.map((o) => `${o.name} (${o.step})`).join(", ") }), order[0].name);
    stage.picture.append(el("div", { class: "four" }, ...views.map((v) => v.box)), legend(book.structures, names), el("div", { class: "pair wide" }, chart, solid.box));
    stage.controls.append(walk.box, height.box);
    await draw();
  },
};
