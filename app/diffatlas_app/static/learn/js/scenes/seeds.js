// Scene 8: eight seeds; where they agree, and whether they are right there.
import { axial, choice, el, legend, lines, number, percent, slicePicture, slider } from "../parts.js";
import { loadVolume } from "../files.js";
import { numberIn, oneOf } from "../state.js";
import { meanOf } from "../volume.js";

export const seeds = {
  id: "seeds",
  right: null,
  live: { preset: "watch", steps: 12, samples: 8, noise: 1 },
  async mount(stage) {
    const { book, say, ui, colors, names } = stage;
    const data = book.seeds;
    const numbers = data.masks.map((_, i) => String(i));
    let which = oneOf(stage.state, "seed", numbers), z = numberIn(stage.state, "z", 12, 52, 32);
    const [scan, truth, mean, ...masks] = await Promise.all(["patient", book.destroy.patient.labels, data.mean, ...data.masks].map(loadVolume));
    const one = slicePicture(say("one")), agree = slicePicture(say("agree")), wrong = slicePicture(say("wrong"));
    const doubt = Float32Array.from(mean, (v, i) => 1 - masks.reduce((n, mask) => n + (mask[i] === v), 0) / masks.length);
    const error = Float32Array.from(mean, (v, i) => Number(v !== truth[i]));
    const shares = data.curve.map((c) => (c.voxels ? c.right / c.voxels : null));
    const all = data.curve[data.curve.length - 1];
    const chart = lines({ x: data.curve.map((c) => c.agree / 8), series: [{ name: say("ideal"), values: data.curve.map((c) => c.agree / 8), color: "var(--soft)" }, { name: say("here"), values: shares, color: "var(--accent)", wide: true }], xName: say("share"), yName: say("right"), alt: say("chart", { share: percent(all.right / all.voxels) }), dots: true });
    const measured = data.measured.filter((row) => row.measure === "calibration error" && row.run === "8 samples")[0];
    const result = el("div", { hidden: true }, chart, el("p", { class: "note" }, say("measured", { error: number(Number(measured.mean)) })));
    const draw = () => {
      const grey = axial(scan, z);
      one.draw({ image: grey, labels: axial(masks[Number(which)], z), colors });
      one.note.textContent = `Dice ${number(meanOf(data.dice[Number(which)]), 3)}`;
      agree.draw({ image: grey.map((v) => v / 3), heat: axial(doubt, z).map((v) => 1.6 * v), colors });
      wrong.draw({ image: grey.map((v) => v / 3), heat: axial(error, z), colors });
      stage.see(say("see", { low: number(Math.min(...data.dice.map(meanOf)), 3), high: number(Math.max(...data.dice.map(meanOf)), 3), mean: number(meanOf(data.dice_mean), 3) }));
      stage.set({ seed: which === "0" ? undefined : which, z: z === 32 ? undefined : z });
    };
    const tried = new Set();
    const pick = choice({ name: say("seed"), options: numbers.map((n) => [n, String(Number(n) + 1)]), value: which, input: (v) => {
      which = v;
      tried.add(v);
      if (tried.size >= 2) { stage.done(); result.hidden = false; }
      draw();
    } });
    const height = slider({ name: ui("height"), low: 12, high: 52, step: 1, value: z, show: (v) => String(v), input: (v) => { z = v; draw(); } });
    const sure = all.right / all.voxels;
    stage.answer(say("told", { share: percent(sure), count: all.voxels }), sure > 0.995 ? 0 : sure > 0.9 ? 1 : 2);
    stage.picture.append(el("div", { class: "three" }, one.box, agree.box, wrong.box), legend(book.structures, names), result);
    stage.controls.append(pick, height.box);
    draw();
  },
};
