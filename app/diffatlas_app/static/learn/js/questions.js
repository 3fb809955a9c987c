// Five questions before and after the scenes; answers stay in this browser until someone saves them.
import { el, button } from "./parts.js";
import { keepAnswer, readAnswers, tally, toCsv } from "./answers.js";
import { saveText } from "./files.js";

/** Right answer of each question, as its place among the options in the words files. */
export const RIGHT = [1, 2, 0, 1, 2];

/** The page of questions; `phase` is "before" or "after". */
export function questionsPage(phase, words, ui, store, who) {
  const rows = readAnswers(store);
  const status = el("p", { class: "answer", role: "status" });
  const items = words.items.map((item, i) => {
    const name = `q${i + 1}`;
    const kept = rows.find((r) => r.phase === phase && r.item === name);
    const options = item.options.map((text, o) =>
      el("label", {}, el("input", { type: "radio", name, value: o, checked: kept?.answer === text, change: () => {
        keepAnswer(store, { who: who(), when: new Date().toISOString(), phase, item: name, answer: text, right: Number(o === RIGHT[i]) });
        status.textContent = ui("kept");
      } }), el("span", {}, text)),
    );
    return el("fieldset", { class: "question" }, el("legend", {}, `${i + 1}. ${item.q}`), ...options);
  });
  const result = el("div", { role: "status" });
  const check = button(words.check, () => {
    const all = readAnswers(store), counts = tally(all);
    const sum = (p) => words.items.reduce((n, _, i) => n + (counts[`q${i + 1}`]?.[p]?.[0] ?? 0), 0);
    const any = (p) => all.some((r) => r.phase === p && /^q\d$/.test(r.item));
    result.replaceChildren(
      el("p", {}, ["before", "after"].filter(any).map((p) => `${words[p]}: ${sum(p)} / ${words.items.length}`).join(" · ") || words.none),
      ...(phase === "after" && any("after") ? [el("ol", {}, ...words.items.map((item, i) => el("li", {}, el("strong", {}, item.options[RIGHT[i]]), ` ${item.because}`)))] : []),
    );
  }, "primary");
  return el("div", { class: "questions" }, el("p", { class: "lead" }, words[`${phase}Lead`]), ...items, status, el("div", { class: "row" }, check, saveButton(words.save, store)), result);
}

export function saveButton(text, store) {
  return button(text, () => saveText("answers.csv", toCsv(readAnswers(store)), "text/csv"));
}
