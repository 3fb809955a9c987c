// Scene 9: pairs from the atlas alone among hearts that were drawn; find the generated one.
import { uniformFrom } from "../noise.js";
import { axial, button, el, legend, number, rgb, slicePicture, slider, strips, surfacePicture } from "../parts.js";
import { loadVolume } from "../files.js";
import { numberIn } from "../state.js";

export const dreams = {
  id: "dreams",
  right: null,
  live: { preset: "watch" },
  async mount(stage) {
    const { book, say, ui, colors, names } = stage;
    const { pairs, population } = book.dreams;
    const made = pairs.filter((p) => p.made), drawn = pairs.filter((p) => !p.made);
    const rounds = Math.min(made.length, drawn.length);
    let round = Math.round(numberIn(stage.state, "round", 0, rounds - 1, 0)), z = 32, hits = 0, asked = 0, look = false, found = false;
    const sides = [0, 1].map((i) => ({ solid: surfacePicture(say("mask", { letter: "AB"[i] }), ui("turn"), colors), flat: slicePicture(say("image", { letter: "AB"[i] })) }));
    const answer = el("p", { class: "answer", role: "status" });
    const plot = el("div", {});
    // Which side is which is settled by the round's number: a shared link shows the same pair.
    const leftIsMade = () => uniformFrom(100 + round)() < 0.5;
    const draw = async () => {
      const mine = ++asked, shown = leftIsMade() ? [made[round], drawn[round]] : [drawn[round], made[round]];
      const parts = await Promise.all(shown.flatMap((p) => [loadVolume(p.image), loadVolume(p.labels)]));
      if (mine !== asked) return;
      sides.forEach((side, i) => {
        side.solid.show(parts[2 * i + 1]);
        side.flat.box.hidden = !look;
        side.flat.draw({ image: axial(parts[2 * i], z), labels: found ? axial(parts[2 * i + 1], z) : null, colors });
        side.flat.words.textContent = found ? say(shown[i].made ? "wasMade" : "wasDrawn", { letter: "AB"[i] }) : say("image", { letter: "AB"[i] });
      });
      if (found) {
        const groups = book.structures.map((s) => ({ name: names[s.name], color: rgb(s.color), values: population[s.name], marks: [made[round].ml[s.name]] }));
        plot.replaceChildren(strips({ groups, low: 0, high: 300, xName: say("ml"), alt: say("volumesAlt", { list: groups.map((g) => `${g.name} ${number(g.marks[0], 0)} ml`).join(", ") }) }), el("p", { class: "note" }, say("volumes")));
      } else plot.replaceChildren();
      stage.see(say("see", { round: round + 1, rounds, hits }));
      stage.set({ round: round || undefined });
      for (const b of choose) b.disabled = found;
      next.disabled = !found;
    };
    const guess = (i) => {
      const right = (i === 0) === leftIsMade();
      hits += right;
      found = look = true;
      answer.textContent = say(right ? "rightly" : "wrongly");
      stage.log(`dream ${round + 1}`, "AB"[i], Number(right));
      stage.done();
      draw();
    };
    const choose = [0, 1].map((i) => button(say("isMade", { letter: "AB"[i] }), () => guess(i), "primary"));
    const peek = button(say("peek"), () => { look = true; draw(); });
    const next = button(say("next"), () => {
      round = (round + 1) % rounds;
      if (round === 0) hits = 0;
      look = found = false;
      answer.textContent = "";
      draw();
    });
    const height = slider({ name: ui("height"), low: 12, high: 52, step: 1, value: z, show: (v) => String(v), input: (v) => { z = v; draw(); } });
    stage.answer(say("told"));
    stage.picture.append(el("div", { class: "pair" }, ...sides.map((s) => s.solid.box)), el("div", { class: "pair" }, ...sides.map((s) => s.flat.box)), legend(book.structures, names), plot);
    stage.controls.append(el("div", { class: "row" }, ...choose), el("div", { class: "row" }, peek, next), height.box, answer);
    await draw();
  },
};
