// @ts-check
/**
 * Three texts become one: what only one side changed is taken from it, what both changed differently is a
 * conflict with both versions. Line by line; pure.
 */

const DIFFERENCES_MAX = 4_000;

/** Text as lines, each with its end. @param {string} text */
export const linesOf = (text) => (text === "" ? [] : text.split(/(?<=\n)/));

/**
 * Runs of equal lines, as [place in a, place in b, count]. Myers' greedy algorithm; texts that differ too much count as
 * wholly different.
 * @param {string[]} a @param {string[]} b @returns {[number, number, number][]}
 */
export function matches(a, b) {
  let start = 0, endA = a.length, endB = b.length;
  while (start < endA && start < endB && a[start] === b[start]) start++;
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) { endA--; endB--; }
  const n = endA - start, m = endB - start, most = Math.min(n + m, DIFFERENCES_MAX);
  /** @type {[number, number, number][]} */
  const found = [];
  const v = new Int32Array(2 * most + 3), trace = [];
  let reached = -1;
  search: for (let d = 0; d <= most && n && m; d++) {
    trace.push(v.slice(most + 1 - d - 1, most + 1 + d + 2));
    for (let k = -d; k <= d; k += 2) {
      let x = k === -d || (k !== d && v[most + 1 + k - 1] < v[most + 1 + k + 1]) ? v[most + 1 + k + 1] : v[most + 1 + k - 1] + 1;
      while (x < n && x - k < m && a[start + x] === b[start + x - k]) x++;
      v[most + 1 + k] = x;
      if (x >= n && x - k >= m) { reached = d; break search; }
    }
  }
  if (reached >= 0) {
    let x = n, y = m;
    for (let d = reached; d >= 0; d--) {
      const row = trace[d], at = (/** @type {number} */ k) => row[k + d + 1], k = x - y;
      const down = k === -d || (k !== d && at(k - 1) < at(k + 1));
      const px = d === 0 ? 0 : down ? at(k + 1) : at(k - 1), py = d === 0 ? 0 : px - (down ? k + 1 : k - 1);
      const bx = d === 0 ? 0 : down ? px : px + 1;
      if (x > bx) found.push([start + bx, start + bx - k, x - bx]);
      x = px; y = py;
    }
    found.reverse();
  }
  if (start) found.unshift([0, 0, start]);
  if (endA < a.length) found.push([endA, endB, a.length - endA]);
  return found;
}

/**
 * @param {string} base @param {string} mine @param {string} theirs
 * @returns {({text: string} | {base: string, mine: string, theirs: string})[]} agreed text and conflicts, in order
 */
export function merge(base, mine, theirs) {
  const o = linesOf(base), a = linesOf(mine), b = linesOf(theirs);
  const inA = places(o.length, matches(o, a)), inB = places(o.length, matches(o, b));
  /** @type {any[]} */
  const parts = [];
  const agree = (/** @type {string} */ text) => { if (!text) return; const last = parts.at(-1); last && "text" in last ? (last.text += text) : parts.push({ text }); };
  let io = 0, ia = 0, ib = 0;
  while (io < o.length || ia < a.length || ib < b.length) {
    if (io < o.length && inA[io] === ia && inB[io] === ib) { agree(o[io]); io++; ia++; ib++; continue; }
    let next = io; // the next line of the base that both sides still have
    while (next < o.length && !(inA[next] >= ia && inB[next] >= ib)) next++;
    const ea = next < o.length ? inA[next] : a.length, eb = next < o.length ? inB[next] : b.length;
    const was = o.slice(io, next).join(""), ours = a.slice(ia, ea).join(""), other = b.slice(ib, eb).join("");
    if (ours === other || other === was) agree(ours);
    else if (ours === was) agree(other);
    else parts.push({ base: was, mine: ours, theirs: other });
    io = next; ia = ea; ib = eb;
  }
  return parts;
}

/** For each line of the base its place in the other text, or -1. @param {number} count @param {[number, number, number][]} runs */
function places(count, runs) {
  const found = new Int32Array(count).fill(-1);
  for (const [x, y, n] of runs) for (let i = 0; i < n; i++) found[x + i] = y + i;
  return found;
}
