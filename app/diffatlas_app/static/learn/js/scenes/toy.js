// Scene 2: a pair as two numbers; a diffusion model trained here; slicing the cloud is conditioning.
import { drawCloud, newTraining, shareInside, walkPairs } from "../toy.js";
import { button, el, lines, number, percent, slider } from "../parts.js";
import { numberIn } from "../state.js";

const SIZE = 420, REACH = 1.7;

export const toy = {
  id: "toy",
  right: 1,
  live: { preset: "watch" },
  async mount(stage) {
    const { say } = stage;
    const cloud = drawCloud(1, 1500);
    const training = newTraining(cloud, 2), losses = [];
    let frame = 0, walk = null, kind = "";
    let x = numberIn(stage.state, "x", -1, 1, 0.5);
    const canvas = el("canvas", { width: SIZE, height: SIZE, role: "img", "aria-label": say("alt"), class: "cloud" });
    const curve = el("div", {});
    const words = el("p", { class: "answer", role: "status" });
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const draw = () => {
      const pen = canvas.getContext("2d"), at = (v) => ((v + REACH) / (2 * REACH)) * SIZE;
      pen.fillStyle = colour("--panel");
      pen.fillRect(0, 0, SIZE, SIZE);
      pen.strokeStyle = colour("--line");
      pen.beginPath();
      pen.moveTo(0, at(0)); pen.lineTo(SIZE, at(0)); pen.moveTo(at(0), 0); pen.lineTo(at(0), SIZE);
      pen.stroke();
      const dots = (pairs, color, radius) => {
        pen.fillStyle = color;
        for (let i = 0; i < pairs.length; i += 2) {
          pen.beginPath();
          pen.arc(at(pairs[i]), SIZE - at(pairs[i + 1]), radius, 0, 7);
          pen.fill();
        }
      };
      dots(cloud, colour("--faint"), 2);
      if (kind === "slice") {
        pen.fillStyle = colour("--mark");
        pen.fillRect(at(x) - 1, 0, 2, SIZE);
      }
      if (walk) dots(walk[frame], colour("--accent"), 3.2);
      pen.fillStyle = colour("--soft");
      pen.font = "14px system-ui, sans-serif";
      pen.fillText(say("bright"), SIZE - pen.measureText(say("bright")).width - 8, at(0) - 8);
      pen.fillText(say("dark"), 8, at(0) - 8);
      pen.fillText(say("inside"), at(0) + 8, SIZE - 10);
      pen.fillText(say("outside"), at(0) + 8, 20);
    };
    const trained = () => training.steps >= training.total;
    const drawCurve = () => {
      if (losses.length < 2) return;
      curve.replaceChildren(lines({ x: losses.map((_, i) => i * 15), series: [{ name: "", values: losses, color: "var(--accent)" }], high: Math.max(0.6, losses[0]), xName: say("updates"), yName: say("loss"), alt: say("lossAlt", { loss: number(losses[losses.length - 1]) }), named: false }));
    };
    let run = 0;
    const play = (name) => {
      kind = name;
      run++;
      walk = walkPairs(training.network, 5, name === "slice" ? 120 : 300, 30, name === "slice" ? x : null);
      const found = shareInside(walk[30]), truth = shareInside(cloud, name === "slice" ? x : null);
      words.textContent = say(name === "slice" ? "sliced" : "drawn", { x: number(x), found: percent(found), truth: truth === null ? "–" : percent(truth) });
      const mine = run, still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      frame = still ? 30 : 0;
      const next = () => {
        if (mine !== run || !canvas.isConnected) return;
        draw();
        if (frame < 30) { frame++; setTimeout(next, 40); }
      };
      next();
      stage.set({ x: name === "slice" ? x : undefined });
      stage.done();
    };
    const train = button(say("train"), () => {
      train.disabled = true;
      let sum = 0, count = 0, shown = 0;
      const chunk = () => {
        if (!canvas.isConnected) return;
        const end = performance.now() + 24;
        while (performance.now() < end && !trained()) {
          sum += training.step();
          if (++count === 15) { losses.push(sum / 15); sum = count = 0; }
        }
        if (performance.now() - shown > 150 || trained()) {
          shown = performance.now();
          drawCurve();
          stage.see(say("training", { steps: training.steps, total: training.total }));
        }
        if (!trained()) setTimeout(chunk, 0);
        else {
          stage.see(say("trained"));
          generate.disabled = slice.disabled = intensity.input.disabled = false;
          play("all");
        }
      };
      chunk();
    }, "primary");
    const generate = button(say("generate"), () => play("all"));
    const slice = button(say("slice"), () => play("slice"));
    let waiting = 0;
    const intensity = slider({ name: say("intensity"), low: -1, high: 1, step: 0.05, value: x, show: (v) => number(v), input: (v) => {
      x = v;
      clearTimeout(waiting);
      waiting = setTimeout(() => play("slice"), 120);
    } });
    generate.disabled = slice.disabled = intensity.input.disabled = true;
    stage.picture.append(el("div", { class: "pair wide" }, canvas, curve));
    stage.controls.append(el("div", { class: "row" }, train, generate, slice), intensity.box, words);
    stage.see(say("ready"));
    draw();
  },
};
