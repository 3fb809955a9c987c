// The site: which page the address asks for, and the frame that all scenes share (predict, do, see, why, link).
import { keepAnswer } from "./answers.js";
import { loadJson } from "./files.js";
import { button, el, newId, percent } from "./parts.js";
import { questionsPage, saveButton } from "./questions.js";
import { readHash, writeHash } from "./state.js";
import { settledAt } from "./volume.js";
import { sheetsPage, teacherPage } from "./teacher.js";
import { back } from "./scenes/back.js";
import { destroy } from "./scenes/destroy.js";
import { dreams } from "./scenes/dreams.js";
import { fool } from "./scenes/fool.js";
import { modality } from "./scenes/modality.js";
import { paint } from "./scenes/paint.js";
import { rho } from "./scenes/rho.js";
import { seeds } from "./scenes/seeds.js";
import { toy } from "./scenes/toy.js";
import { unguided } from "./scenes/unguided.js";

const SCENES = [destroy, toy, back, unguided, rho, fool, modality, seeds, dreams, paint];
const ORDER = SCENES.map((scene) => scene.id);
const PAGES = ["before", ...ORDER, "after"];
const LANGUAGES = { en: "English", de: "Deutsch" };
const THEMES = ["auto", "light", "dark"];
const memory = new Map();
// A private window may refuse storage: then what is kept lasts as long as the page.
const store = {
  getItem(key) { try { return localStorage.getItem(key); } catch { return memory.get(key) ?? null; } },
  setItem(key, value) { try { localStorage.setItem(key, value); } catch { memory.set(key, value); } },
};
// The web page links here with "?live": then an engine stands one folder up.
const live = new URLSearchParams(location.search).has("live") ? "../" : "";

let book = null, words = null, language = "", mounted = 0;

function chosenLanguage(state) {
  const own = (navigator.language || "en").slice(0, 2);
  return [state.lang, store.getItem("diffatlas-learn-lang"), own].find((l) => Object.hasOwn(LANGUAGES, l)) ?? "en";
}

function fill(text, values = {}) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

const ui = (key, values) => fill(words.ui[key] ?? key, values);
const linkTo = (id) => writeHash({ scene: id, lang: language });

async function show(focus) {
  const mine = ++mounted;
  const state = readHash(location.hash);
  const wanted = chosenLanguage(state);
  if (wanted !== language) {
    words = await loadJson(`words/${wanted}.json`);
    language = wanted;
    document.documentElement.lang = wanted;
  }
  const id = [...PAGES, "teacher", "sheets"].includes(state.scene) ? state.scene : "destroy";
  if (mine !== mounted) return;
  frame(id);
  const main = document.getElementById("main");
  main.className = `page-${id}`;
  if (ORDER.includes(id)) {
    book ??= await loadJson("data/scenes.json");
    if (mine !== mounted) return;
    await scenePage(main, SCENES[ORDER.indexOf(id)], state, mine);
  } else plainPage(main, id);
  document.documentElement.dataset.ready = id;
  if (focus) main.querySelector("h1")?.focus();
}

function frame(id) {
  document.title = `${words.scenes[id]?.title ?? words[id]?.title ?? words.questions[id] ?? ""} · DiffAtlas`;
  const pill = (page) => {
    const number = ORDER.indexOf(page) + 1;
    const name = number ? words.scenes[page].title : words.questions[page];
    return el("a", { href: linkTo(page), "aria-current": page === id ? "page" : null, "aria-label": number ? `${number}. ${name}` : name, title: name, class: number ? "" : "quiz" }, number ? String(number) : words.questions[`${page}Short`]);
  };
  const others = Object.keys(LANGUAGES).filter((l) => l !== language);
  const inLanguage = (other) => el("a", { href: writeHash({ scene: id, lang: other }), lang: other, hreflang: other, class: "quiet", click: (event) => {
    store.setItem("diffatlas-learn-lang", other);
    event.currentTarget.href = writeHash({ ...readHash(location.hash), scene: id, lang: other });
  } }, LANGUAGES[other]);
  const theme = document.documentElement.dataset.theme || "auto";
  document.getElementById("top").replaceChildren(
    el("a", { class: "brand", href: linkTo("destroy") }, "DiffAtlas", el("span", {}, ui("learn"))),
    el("nav", { "aria-label": ui("scenes"), class: "pills" }, ...PAGES.map(pill)),
    el(
      "div",
      { class: "tools" },
      button(ui(`theme-${theme}`), () => {
        const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
        document.documentElement.dataset.theme = next;
        store.setItem("diffatlas-learn-theme", next);
        frame(id);
      }, "quiet"),
      ...others.map(inLanguage),
    ),
  );
  document.getElementById("foot").replaceChildren(
    el("a", { href: linkTo("teacher") }, words.teacher.title),
    el("a", { href: linkTo("sheets") }, words.sheets.title),
    live ? el("a", { href: `${live}?run=1`, target: "_parent" }, ui("page")) : "",
    el("span", {}, ui(live ? "disclaimerLive" : "disclaimer")),
  );
}

function plainPage(main, id) {
  const heading = (text) => el("h1", { tabindex: -1 }, text);
  if (id === "teacher") main.replaceChildren(heading(words.teacher.title), teacherPage(words.teacher, ui, words.scenes, linkTo, measuredAnswers()));
  else if (id === "sheets") main.replaceChildren(heading(words.sheets.title), sheetsPage(words.sheets, words.scenes, ORDER));
  else {
    const nameId = newId();
    const name = el("input", { id: nameId, value: store.getItem("diffatlas-learn-who") ?? "", maxlength: 40, autocomplete: "off", input: (event) => store.setItem("diffatlas-learn-who", event.target.value) });
    main.replaceChildren(
      heading(words.questions[id]),
      el("p", { class: "who" }, el("label", { for: nameId }, words.questions.who), name),
      questionsPage(id, words.questions, ui, store, () => name.value.trim()),
      turning(id),
    );
  }
}

/** Answers that are computed from the recording, for the teacher's page. */
function measuredAnswers() {
  if (!book) {
    loadJson("data/scenes.json").then((loaded) => {
      book = loaded;
      if (document.documentElement.dataset.ready === "teacher") show(false);
    });
    return {};
  }
  const names = words.structures;
  const settled = book.structures
    .map((s, k) => [settledAt(book.back.steps.map((step) => step.dice[k])) + 1, names[s.name]])
    .sort((a, b) => a[0] - b[0]);
  const last = book.seeds.curve[book.seeds.curve.length - 1];
  return {
    back: settled.map(([step, name]) => `${name}: ${step}`).join(", "),
    seeds: `8 / 8: ${percent(last.right / last.voxels)}`,
  };
}

async function scenePage(main, scene, state, mine) {
  const text = words.scenes[scene.id];
  const say = (key, values) => fill(text[key] ?? key, values);
  const key = `predicted-${scene.id}`;
  const deep = Object.keys(state).some((name) => !["scene", "lang"].includes(name));
  let open = deep || memory.has(key), told = "";
  const controls = el("fieldset", { class: "controls", disabled: !open }, el("legend", {}, ui("do")));
  const picture = el("div", { class: "stage" }, el("p", { class: "loading" }, ui("loading")));
  const see = el("p", { "aria-live": "polite" });
  const why = el("section", { class: "card why", hidden: true, "aria-label": ui("why") }, el("h2", {}, ui("why")), el("p", {}, text.why));
  const verdict = el("p", { class: "verdict" });
  const right = scene.right;
  let rightText = null, chosen = memory.get(key) ?? null;
  const judge = () => {
    if (chosen === null) return;
    const expected = rightText ?? (right === null ? null : text.predict.options[right]);
    const hit = expected !== null && text.predict.options[chosen] === expected;
    verdict.textContent = expected === null ? told : `${hit ? ui("hit") : ui("miss", { right: expected })} ${told}`.trim();
  };
  const done = () => {
    if (!why.hidden || !open) return;
    judge();
    why.hidden = false;
  };
  const unlock = () => {
    open = true;
    controls.disabled = false;
    predict.classList.add("given");
    skip.hidden = true;
  };
  const group = newId();
  const options = text.predict.options.map((option, i) =>
    el("label", {}, el("input", { type: "radio", name: group, checked: chosen === i, change: () => {
      chosen = i;
      memory.set(key, i);
      const expected = rightText ?? (right === null ? null : text.predict.options[right]);
      log("predict", option, expected === null ? "" : Number(option === expected));
      unlock();
      if (!why.hidden) judge();
    } }), el("span", {}, option)),
  );
  const skip = button(ui("skip"), () => { unlock(); controls.querySelector("input, button")?.focus(); }, "quiet");
  skip.hidden = open;
  const predict = el("fieldset", { class: `card predict${open ? " given" : ""}` }, el("legend", {}, ui("predict")), el("p", { class: "question" }, text.predict.q), el("div", { class: "options" }, ...options), skip);
  const log = (item, answer, hit) => keepAnswer(store, { who: (store.getItem("diffatlas-learn-who") ?? "").trim(), when: new Date().toISOString(), phase: "scene", item: `${scene.id} ${item}`, answer, right: hit });
  const copied = el("span", { role: "status", class: "copied" });
  const copy = button(ui("copy"), async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      copied.textContent = ui("copied");
    } catch {
      copied.textContent = location.href;
    }
  }, "quiet");
  const query = new URLSearchParams({ run: 1, ...scene.live });
  const tryLive = live ? el("a", { class: "live", href: `${live}?${query}`, target: "_parent" }, ui("live")) : null;
  const number = ORDER.indexOf(scene.id) + 1;
  main.replaceChildren(
    el("header", { class: "intro" }, el("p", { class: "step" }, ui("sceneOf", { number, all: ORDER.length })), el("h1", { tabindex: -1 }, text.title), el("p", { class: "lead" }, (live && text.leadLive) || text.lead)),
    predict,
    el("section", { class: "work", "aria-label": ui("do") }, controls, el("div", { class: "see" }, el("h2", {}, ui("see")), see), picture),
    why,
    el("div", { class: "after" }, tryLive, copy, copied, el("p", { class: "note" }, ui("recorded", { model: book.model.name, sha: book.model.sha256.slice(0, 12) })), turning(scene.id)),
  );
  why.append(verdict);
  const own = { scene: scene.id, lang: language };
  const stage = {
    book, say, ui, state, controls, see: (t) => { see.textContent = t; },
    picture: el("div", {}),
    names: words.structures,
    colors: book.structures.map((s) => s.color),
    done,
    engine: live,
    locked: () => !open,
    log,
    // What the recording says of the question: a sentence, and the right option by its place or its words.
    answer(sentence, which = null) {
      told = sentence;
      const { options: all } = text.predict;
      rightText = typeof which === "number" ? all[which] : all.find((o) => o.toLowerCase() === which?.toLowerCase()) ?? null;
    },
    set(values) {
      if (mine !== mounted) return;
      history.replaceState(null, "", writeHash({ ...own, ...values }));
    },
  };
  try {
    await scene.mount(stage);
    picture.replaceChildren(stage.picture);
  } catch (error) {
    picture.replaceChildren(el("p", { class: "answer", role: "alert" }, ui("failed", { error: error.message })));
  }
}

function turning(id) {
  const at = PAGES.indexOf(id);
  const to = (page, kind) => (page ? el("a", { href: linkTo(page), class: kind, rel: kind }, ui(kind)) : el("span", {}));
  return el("nav", { class: "turning", "aria-label": ui("turning") }, to(PAGES[at - 1], "prev"), id === "after" ? saveButton(words.questions.save, store) : "", to(PAGES[at + 1], "next"));
}

if (window.parent !== window) document.documentElement.dataset.framed = "";
document.documentElement.dataset.theme = store.getItem("diffatlas-learn-theme") || "auto";
addEventListener("hashchange", () => show(true));
show(false);
