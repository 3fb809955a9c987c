// Scene 7: the same patient in four appearances; guess the score before it is shown.
import { axial, bars, button, choice, el, legend, number, slicePicture, slider } from "../parts.js";
import { loadVolume } from "../files.js";
import { oneOf } from "../state.js";
import { meanOf } from "../volume.js";

const LOOKS = ["ct", "mr", "no-contrast", "black-blood"];

export const modality = {
  id: "modality",
  right: null,
  live: { example: "heart-mr", preset: "fast" },
  async mount(stage) {
    const { book, say, colors, names } = stage;
    let which = oneOf(stage.state, "look", LOOKS), asked = 0;
    const guesses = {}, z = 32;
    const views = [slicePicture(say("scan")), slicePicture(say("answer"))];
    const truth = await loadVolume(book.destroy.patient.labels);
    const scores = Object.fromEntries(LOOKS.map((key) => [key, meanOf(book.modality.looks[key].dice)]));
    const table = el("div", {});
    const draw = async () => {
      const mine = ++asked, one = book.modality.looks[which], shown = which in guesses;
      const [image, labels] = await Promise.all([loadVolume(one.image), loadVolume(one.labels)]);
      if (mine !== asked) return;
      views[0].draw({ image: axial(image, z), colors });
      views[1].draw(shown ? { image: axial(image, z), labels: axial(labels, z), outline: axial(truth, z), colors } : { image: axial(image, z).map((v) => v / 4), colors });
      views[1].note.textContent = shown ? say("dice", { dice: number(scores[which]), guess: number(guesses[which]) }) : say("covered");
      const known = LOOKS.filter((key) => key in guesses);
      table.replaceChildren(...(known.length ? [el("h3", {}, say("yours")), bars(known.map((key) => ({ name: say(key), value: scores[key], guess: guesses[key], text: number(scores[key]) })), known.map((key) => `${say(key)}: ${number(scores[key])}`).join("; "))] : []));
      if (known.length === LOOKS.length) {
        table.append(el("h3", {}, say("domains")), bars(domains(book).map((d) => ({ name: d.name, value: d.mean, text: number(d.mean), color: "var(--mark)" })), domains(book).map((d) => `${d.name}: ${number(d.mean)}`).join("; ")), el("p", { class: "note" }, say("domainsNote")));
        stage.done();
      }
      stage.see(say("see", { count: known.length, all: LOOKS.length }));
      stage.set({ look: which === "ct" ? undefined : which });
    };
    const pick = choice({ name: say("which"), options: LOOKS.map((key) => [key, say(key)]), value: which, input: (v) => { which = v; draw(); } });
    const guess = slider({ name: say("guess"), low: 0, high: 1, step: 0.05, value: 0.8, show: (v) => number(v), input: () => {} });
    const reveal = button(say("reveal"), () => {
      guesses[which] ??= Number(guess.input.value);
      stage.log(`guess ${which}`, number(guesses[which]), "");
      draw();
    }, "primary");
    const worst = LOOKS.reduce((a, b) => (scores[b] < scores[a] ? b : a));
    stage.answer("", say(worst));
    stage.picture.append(el("div", { class: "pair" }, ...views.map((v) => v.box)), legend(book.structures, names), table);
    stage.controls.append(pick, guess.box, el("div", { class: "row" }, reveal));
    await draw();
  },
};

/** Small atlases trained on one modality alone: mean Dice of the fast preset, from the benchmarks. */
function domains(book) {
  return book.modality.domains
    .filter((row) => row.run === "fast" && /^(CT|MR) to (CT|MR)$/.test(row.setting))
    .map((row) => ({ name: row.setting.replace(" to ", " → "), mean: Number(row.mean) }));
}
