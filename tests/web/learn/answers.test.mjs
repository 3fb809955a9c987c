import assert from "node:assert/strict";
import test from "node:test";
import { fromCsv, keepAnswer, readAnswers, tally, toCsv } from "./js/answers.js";

const storeOf = (map = new Map()) => ({ getItem: (k) => map.get(k) ?? null, setItem: (k, v) => map.set(k, v) });
const row = (phase, item, answer, right, who = "7") => ({ who, when: "2026-01-01T00:00:00.000Z", phase, item, answer, right });

test("answers come back from CSV, whatever is in them", () => {
  const rows = [row("before", "q1", 'a "quoted", answer', 1, "Jö, the 2nd"), row("after", "q2", "two\nlines", 0)];
  assert.deepEqual(fromCsv(toCsv(rows)), rows.map((r) => ({ ...r, right: String(r.right) })));
  assert.deepEqual(fromCsv("\uFEFF" + toCsv(rows))[0].who, "Jö, the 2nd");
  assert.ok(toCsv([]).endsWith("\r\n"));
});

test("a cell that a spreadsheet would run is made text", () => {
  for (const bad of ["=1+1", "+1", "-1", "@SUM(A1)"]) assert.ok(toCsv([row("before", "q1", bad, 0)]).includes(`,'${bad},`));
});

test("a file that is not one of answers is refused", () => {
  assert.throws(() => fromCsv("a,b\n1,2\n"));
  assert.throws(() => fromCsv(""));
});

test("a second answer replaces the first, in its phase only", () => {
  const store = storeOf();
  keepAnswer(store, row("before", "q1", "a", 0));
  keepAnswer(store, row("after", "q1", "b", 1));
  keepAnswer(store, row("before", "q1", "c", 1));
  assert.deepEqual(readAnswers(store).map((r) => [r.phase, r.answer]), [["after", "b"], ["before", "c"]]);
});

test("a store that is broken or refuses is lived with", () => {
  assert.deepEqual(readAnswers(storeOf(new Map([["diffatlas-learn", "{not json"]]))), []);
  assert.deepEqual(readAnswers({ getItem: () => { throw new Error("private"); } }), []);
  const refusing = { getItem: () => null, setItem: () => { throw new Error("full"); } };
  assert.equal(keepAnswer(refusing, row("before", "q1", "a", 0)).length, 1);
});

test("the tally counts the right ones of each question before and after", () => {
  const rows = [row("before", "q1", "a", 0), row("before", "q1", "b", "1", "8"), row("after", "q1", "b", 1)];
  assert.deepEqual(tally(rows), { q1: { before: [1, 2], after: [1, 1] } });
});
