// A student's answers: kept in this browser only, written out as CSV by whoever wants them.

export const KEY = "diffatlas-learn";
const COLUMNS = ["who", "when", "phase", "item", "answer", "right"];

/** The answers of this browser: rows with the columns above. A store that cannot be read counts as empty. */
export function readAnswers(store) {
  try {
    const rows = JSON.parse(store.getItem(KEY) || "[]");
    return Array.isArray(rows) ? rows : [];
  } catch {
    return [];
  }
}

/** Keep an answer; a later one to the same item in the same phase replaces the earlier. Returns all. */
export function keepAnswer(store, row) {
  const rows = readAnswers(store).filter((r) => r.phase !== row.phase || r.item !== row.item);
  rows.push(row);
  try {
    store.setItem(KEY, JSON.stringify(rows));
  } catch {
    // private windows keep nothing; the page works without
  }
  return rows;
}

/** Rows as CSV (RFC 4180). Values that a spreadsheet would run as a formula get an apostrophe in front. */
export function toCsv(rows) {
  const cell = (value) => {
    let text = String(value ?? "");
    if (/^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [COLUMNS, ...rows.map((row) => COLUMNS.map((c) => row[c]))].map((r) => r.map(cell).join(",")).join("\r\n") + "\r\n";
}

/** Inverse of `toCsv`, for the teacher's page; throws on a file that has not its columns. */
export function fromCsv(text) {
  const lines = [[""]];
  let quoted = false;
  const clean = text.replace(/^\uFEFF/, "");
  for (let i = 0; i < clean.length; i++) {
    const c = clean[i], line = lines[lines.length - 1];
    if (quoted) {
      if (c !== '"') line[line.length - 1] += c;
      else if (clean[i + 1] === '"') line[line.length - 1] += clean[++i];
      else quoted = false;
    } else if (c === '"') quoted = true;
    else if (c === ",") line.push("");
    else if (c === "\n") lines.push([""]);
    else if (c !== "\r") line[line.length - 1] += c;
  }
  const [head, ...rows] = lines.filter((line) => line.length > 1 || line[0] !== "");
  if (!head || head.join() !== COLUMNS.join()) throw new Error("not a file of answers");
  return rows.map((row) => Object.fromEntries(COLUMNS.map((c, i) => [c, row[i] ?? ""])));
}

/** How many answered, and how many rightly: {item: {before: [right, all], after: [right, all]}}. */
export function tally(rows) {
  const out = {};
  for (const { phase, item, right } of rows) {
    const counts = ((out[item] ??= {})[phase] ??= [0, 0]);
    counts[1]++;
    if (String(right) === "1") counts[0]++;
  }
  return out;
}
