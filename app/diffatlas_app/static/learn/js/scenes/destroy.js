// Scene 1: image and mask drown in the same noise.
import { alphaOf, normals, sigmaOf } from "../noise.js";
import { axial, button, el, number, slicePicture, slider } from "../parts.js";
import { loadVolume } from "../files.js";
import { numberIn, oneOf } from "../state.js";
import { labelsFromDistances, signedDistance } from "../volume.js";

export const destroy = {
  id: "destroy",
  right: null,
  live: { preset: "watch" },
  async mount(stage) {
    const { book, say, colors } = stage;
    const names = { patient: "A", other: "B" };
    let t = numberIn(stage.state, "t", 0, 1, 0), shown = oneOf(stage.state, "who", ["patient", "other"]), hidden = false;
    const z = 32, clip = book.sdf_clip_mm / book.spacing_mm[0];
    const left = slicePicture(say("image")), right = slicePicture(say("mask"));
    const people = {};
    for (const who of Object.keys(names)) {
      const [image, labels] = await Promise.all([loadVolume(book.destroy[who].image), loadVolume(book.destroy[who].labels)]);
      const flat = axial(labels, z);
      const distances = [1, 2, 3, 4, 5].map((k) => signedDistance(flat, k).map((d) => Math.max(-1, Math.min(1, d / clip))));
      people[who] = { image: axial(image, z), labels: flat, distances };
    }
    const noise = normals(3, 6 * 4096);
    const small = Object.entries(names).map(([who, letter]) => {
      const picture = slicePicture(say("patient", { letter }));
      picture.draw({ image: people[who].image, outline: people[who].labels, colors });
      return picture.box;
    });
    const draw = () => {
      const { image, distances } = people[shown], a = alphaOf(t), s = sigmaOf(t);
      const bytes = Uint8ClampedArray.from(image, (v, i) => 127.5 * (a * (v / 127.5 - 1) + s * noise[i] + 1));
      left.draw({ image: bytes, colors });
      right.draw({ labels: labelsFromDistances(distances.map((d, k) => d.map((v, i) => a * v + s * noise[4096 * (k + 1) + i]))), colors, opacity: 0.85 });
      left.words.textContent = hidden ? say("whose") : say("imageOf", { letter: names[shown] });
      stage.see(say("see", { t: number(t), signal: number(a), noise: number(s) }));
      stage.set({ t: t || undefined, who: hidden ? undefined : shown });
    };
    const level = slider({ name: say("level"), low: 0, high: 1, step: 0.01, value: t, show: (v) => number(v), input: (v) => { t = v; draw(); if (t > 0.6 && !hidden) stage.done(); } });
    const answer = el("p", { class: "answer", role: "status" });
    const guess = (who) => {
      if (!hidden) return;
      answer.textContent = who === shown ? say("rightly", { t: number(t), percent: Math.round(100 * alphaOf(t) ** 2) }) : say("wrongly");
      if (who === shown) { hidden = false; guesses.hidden = true; stage.log("whose", number(t), 1); }
      draw();
    };
    const guesses = el("div", { class: "row", hidden: true }, button(say("isA"), () => guess("patient")), button(say("isB"), () => guess("other")));
    const game = button(say("hide"), () => {
      hidden = true;
      shown = Math.random() < 0.5 ? "patient" : "other";
      t = 1;
      level.set(1);
      guesses.hidden = false;
      answer.textContent = say("task");
      stage.done();
      draw();
    });
    stage.answer(say("told"));
    stage.picture.append(el("div", { class: "pair" }, left.box, right.box), el("div", { class: "thumbs" }, ...small));
    stage.controls.append(level.box, el("div", { class: "row" }, game), guesses, answer);
    draw();
  },
};
