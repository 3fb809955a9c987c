// Scene 10: a mask in, an image out.
import { axial, brushOver, button, choice, el, legend, slicePicture, slider } from "../parts.js";
import { loadVolume } from "../files.js";
import { numberIn, oneOf } from "../state.js";
import { bestMatch, N } from "../volume.js";

const MASKS = ["heart", "mirrored", "three-chambers", "wide-ventricle", "letter"];

export const paint = {
  id: "paint",
  right: 1,
  live: { preset: "watch", steps: 20 },
  async mount(stage) {
    const { book, say, ui, colors, names } = stage;
    const { masks } = book.paint;
    let which = oneOf(stage.state, "mask", MASKS), z = numberIn(stage.state, "z", 12, 52, 32), asked = 0;
    const given = slicePicture(say("given")), made = slicePicture(say("made")), over = slicePicture(say("over"));
    const pad = el("canvas", { width: 320, height: 320, role: "img", "aria-label": `${say("pad")}. ${ui("brushKeys")}` });
    const padBox = el("figure", { class: "picture" }, el("div", { class: "frame" }, pad), el("figcaption", {}, say("pad")), el("p", { class: "note" }, ui("brushKeys")));
    const wipe = () => {
      const pen = pad.getContext("2d");
      pen.fillStyle = "#101010";
      pen.fillRect(0, 0, 320, 320);
    };
    wipe();
    const shapes = {};
    for (const key of MASKS) shapes[key] = axial(await loadVolume(masks[key].labels), 32).map((v) => Number(v > 0));
    const draw = async () => {
      const mine = ++asked;
      const [labels, image] = await Promise.all([loadVolume(masks[which].labels), loadVolume(masks[which].image)]);
      if (mine !== asked) return;
      given.draw({ labels: axial(labels, z), colors, opacity: 0.85 });
      made.draw({ image: axial(image, z), colors });
      over.draw({ image: axial(image, z), outline: axial(labels, z), colors });
      stage.see(say(`see-${which}`));
      stage.set({ mask: which === "heart" ? undefined : which, z: z === 32 ? undefined : z });
    };
    const go = (key) => {
      which = key;
      for (const field of pick.querySelectorAll("input")) field.checked = field.value === key;
      if (key !== "heart") stage.done();
      draw();
    };
    const pick = choice({ name: say("which"), options: MASKS.map((key) => [key, say(key)]), value: which, input: go });
    const height = slider({ name: ui("height"), low: 12, high: 52, step: 1, value: z, show: (v) => String(v), input: (v) => { z = v; draw(); } });
    const answer = el("p", { class: "answer", role: "status" }, say("draw"));
    const brush = brushOver(pad, N, () => 3, (region) => {
      if (stage.locked()) return false;
      const pen = pad.getContext("2d");
      pen.fillStyle = "#e69f00";
      for (let i = 0; i < region.length; i++) if (region[i]) pen.fillRect((i % N) * 5, Math.floor(i / N) * 5, 5, 5);
      return false;
    });
    const nearest = button(say("nearest"), () => {
      const key = bestMatch(brush.region, shapes, 0.1);
      answer.textContent = key ? say("matched", { what: say(key) }) : say("unlike");
      if (key) { z = 32; height.set(z); stage.done(); go(key); }
    }, "primary");
    const clean = button(say("clean"), () => { brush.clear(); wipe(); answer.textContent = say("draw"); });
    stage.picture.append(el("div", { class: "four" }, padBox, given.box, made.box, over.box), legend(book.structures, names));
    stage.controls.append(answer, el("div", { class: "row" }, nearest, clean), pick, height.box);
    await draw();
  },
};
