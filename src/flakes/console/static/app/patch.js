// @ts-check
/** A unified patch of one file as hunks of numbered lines. Pure. */

/** @typedef {{sign: " " | "+" | "-" | "\\", text: string, old: number | null, now: number | null}} Line */
/** @typedef {{at: string, context: string, lines: Line[]}} Hunk */

const AT = /^(@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@) ?(.*)$/;

/** The hunks of a patch; whatever is not in one (modes, names, the heads of its parts) is left out. @param {string} patch @returns {Hunk[]} */
export function hunksOf(patch) {
  /** @type {Hunk[]} */
  const hunks = [];
  let old = 0, now = 0, gone = 0, come = 0;
  for (const line of patch.split("\n")) {
    const hunk = hunks[hunks.length - 1];
    if (hunk && line[0] === "\\") { hunk.lines.push({ sign: "\\", text: line.slice(2), old: null, now: null }); continue; }
    if (!hunk || (gone <= 0 && come <= 0)) {
      const at = AT.exec(line);
      if (!at) continue;
      [old, gone, now, come] = [Number(at[2]), Number(at[3] ?? 1), Number(at[4]), Number(at[5] ?? 1)];
      hunks.push({ at: at[1], context: at[6], lines: [] });
      continue;
    }
    const sign = /** @type {" " | "+" | "-"} */ (line[0] ?? " "), text = line.slice(1);
    if (sign === "+") { hunk.lines.push({ sign, text, old: null, now: now++ }); come--; }
    else if (sign === "-") { hunk.lines.push({ sign, text, old: old++, now: null }); gone--; }
    else { hunk.lines.push({ sign: " ", text, old: old++, now: now++ }); come--; gone--; }
  }
  return hunks;
}

/** The first lines of some hunks. @param {Hunk[]} hunks @param {number} most @returns {Hunk[]} */
export function firstLines(hunks, most) {
  const shown = [];
  for (const hunk of hunks) {
    if (most <= 0) break;
    shown.push(hunk.lines.length <= most ? hunk : { ...hunk, lines: hunk.lines.slice(0, most) });
    most -= hunk.lines.length;
  }
  return shown;
}

/**
 * Where two neighbouring lines differ, as [start, end of the old one, end of the new one]: what is common at both
 * ends is left out. Null when they have too little in common for that to tell anything.
 * @param {string} old @param {string} now @returns {[number, number, number] | null}
 */
export function within(old, now) {
  const most = Math.min(old.length, now.length);
  let start = 0, end = 0;
  while (start < most && old[start] === now[start]) start++;
  while (end < most - start && old[old.length - 1 - end] === now[now.length - 1 - end]) end++;
  const blank = old.length - old.trimStart().length;
  return start + end - Math.min(start, blank) < Math.max(old.trim().length, now.trim().length) * 0.35 ? null : [start, old.length - end, now.length - end];
}

/** For each line of a hunk where it differs from the one that it replaces, as [start, end]. @param {Line[]} lines @returns {Map<Line, [number, number]>} */
export function replaced(lines) {
  const found = new Map();
  for (let i = 0; i < lines.length;) {
    if (lines[i].sign !== "-") { i++; continue; }
    let j = i;
    while (lines[j]?.sign === "-" || lines[j]?.sign === "\\") j++;
    let k = j;
    while (lines[k]?.sign === "+" || lines[k]?.sign === "\\") k++;
    const gone = lines.slice(i, j).filter((l) => l.sign === "-"), come = lines.slice(j, k).filter((l) => l.sign === "+");
    if (gone.length === come.length) gone.forEach((line, n) => {
      const differs = within(line.text, come[n].text);
      if (!differs) return;
      found.set(line, [differs[0], differs[1]]);
      found.set(come[n], [differs[0], differs[2]]);
    });
    i = Math.max(k, i + 1);
  }
  return found;
}

/** What cannot be seen or would turn the text round, by name. */
// eslint-disable-next-line no-control-regex
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/;

/** A text in pieces: ordinary ones, and characters that nobody could see as their names. @param {string} text @returns {[string, boolean][]} */
export function visible(text) {
  if (!HIDDEN.test(text)) return [[text, false]];
  return text.split(new RegExp(`(${HIDDEN.source})`)).filter(Boolean).map((part) => HIDDEN.test(part) && part.length === 1
    ? [part === "\r" ? "␍" : `U+${part.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`, true] : [part, false]);
}
