// The teacher's page, and worksheets to print.
import { el, button } from "./parts.js";
import { fromCsv, KEY, tally, toCsv } from "./answers.js";
import { saveText } from "./files.js";

/** Minutes of each part of a class of 45. */
export const PLAN = [["before", 3], ["destroy", 4], ["toy", 4], ["back", 5], ["unguided", 4], ["rho", 4], ["fool", 5], ["modality", 3], ["seeds", 4], ["dreams", 3], ["paint", 3], ["after", 3]];

export function teacherPage(words, ui, sceneWords, link, answers) {
  const row = ([id, minutes]) => {
    const scene = sceneWords[id];
    const title = scene ? scene.title : words[id];
    return el("tr", {}, el("td", {}, `${minutes} min`), el("th", { scope: "row" }, el("a", { href: link(id) }, title)), el("td", {}, scene ? scene.teacherSay : words[`${id}Say`]), el("td", {}, scene ? scene.teacherAnswer : ""), el("td", {}, answers[id] ?? ""));
  };
  const table = el("table", { class: "plan" }, el("caption", {}, words.plan), el("thead", {}, el("tr", {}, ...words.columns.map((c) => el("th", { scope: "col" }, c)))), el("tbody", {}, ...PLAN.map(row)));
  const result = el("div", { role: "status" });
  let rows = [];
  const gather = async (event) => {
    rows = [];
    const bad = [];
    for (const [i, file] of [...event.target.files].entries()) {
      try {
        rows.push(...fromCsv(await file.text()).map((r) => ({ ...r, who: r.who || `${i + 1}` })));
      } catch {
        bad.push(file.name);
      }
    }
    const counts = tally(rows);
    const cell = (c) => (c ? `${c[0]} / ${c[1]}` : "–");
    result.replaceChildren(
      ...(bad.length ? [el("p", { class: "answer" }, `${words.badFile} ${bad.join(", ")}`)] : []),
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, ...[words.item, words.before, words.during, words.after].map((c) => el("th", { scope: "col" }, c)))),
        el("tbody", {}, ...Object.keys(counts).sort().map((item) => el("tr", {}, el("th", { scope: "row" }, item), ...["before", "scene", "after"].map((p) => el("td", {}, cell(counts[item][p])))))),
      ),
      button(words.saveAll, () => saveText("class.csv", toCsv(rows), "text/csv")),
    );
  };
  const file = el("input", { type: "file", accept: ".csv,text/csv", multiple: true, change: gather, id: "csv" });
  const forget = button(words.forget, () => {
    localStorage.removeItem(KEY);
    result.replaceChildren(el("p", {}, words.forgotten));
  });
  return el("div", { class: "teacher" }, el("p", { class: "lead" }, words.lead), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": words.plan }, table), el("ul", {}, ...words.notes.map((n) => el("li", {}, n))), el("h2", {}, words.collect), el("p", {}, words.collectHow), el("p", {}, el("label", { for: "csv" }, words.files), " ", file), result, el("p", {}, forget), el("p", {}, el("a", { href: link("sheets") }, words.sheets)));
}

export function sheetsPage(words, sceneWords, order) {
  const sheet = (id, i) => {
    const scene = sceneWords[id];
    return el("section", { class: "sheet" }, el("h2", {}, `${i + 1}. ${scene.title}`), el("p", {}, scene.lead), el("p", {}, el("strong", {}, scene.predict.q)), el("ul", { class: "boxes" }, ...scene.predict.options.map((o) => el("li", {}, o))), el("p", {}, scene.sheet), el("div", { class: "space" }), el("p", {}, words.because), el("div", { class: "space" }));
  };
  return el("div", { class: "sheets" }, el("p", { class: "lead noprint" }, words.lead), el("div", { class: "noprint" }, button(words.print, () => globalThis.print(), "primary")), el("p", { class: "name" }, words.name), ...order.map(sheet));
}
