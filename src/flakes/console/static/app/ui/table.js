// @ts-check
/**
 * A table of any length: only the rows in sight are in the page. It scrolls with the page, so what is above
 * and below it scrolls along. Rows are of one height, given in CSS pixels.
 */
import { cx, html, signal, useLayoutEffect, useRef, useState } from "../lib.js";

const SPARE = 8;
/** Rows come and go so many at a time: not every frame of scrolling draws the table anew. */
const STEP = 4;

/** How wide the window is: columns that do not fit are left out. */
export const room = signal("l");
for (const [size, query] of [["l", "(min-width: 1181px)"], ["m", "(min-width: 861px) and (max-width: 1180px)"], ["s", "(max-width: 860px)"]]) {
  const media = matchMedia(query);
  const set = () => { if (media.matches) room.value = size; };
  media.addEventListener("change", set);
  set();
}
const SIZES = "sml";

/**
 * A column is there `from` a size of window on; `narrow` is its width in the smallest.
 * `deps`: what cells show besides their row; while neither changes, a row is not drawn again.
 * @param {{label: string, deps?: any[], columns: {key: string, title: any, width: string, sort?: string, from?: "s" | "m" | "l", narrow?: string, end?: boolean}[],
 *   rows: any[], rowHeight?: number, row: (row: any, at: number) => any[], keyOf: (row: any, at: number) => string, tone?: (row: any) => string,
 *   sort?: {by: string, down: boolean}, onSort?: (by: string) => void, chosen?: string}} props
 */
export function Table({ label, deps = [], columns, rows, rowHeight = 40, row, keyOf, tone, sort, onSort, chosen }) {
  const body = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [range, setRange] = useState([0, 40]);
  useLayoutEffect(() => {
    let frame = 0;
    const look = () => {
      frame = 0;
      const element = body.current;
      if (!element) return;
      const top = -element.getBoundingClientRect().top;
      const first = Math.max(0, Math.floor(top / rowHeight / STEP) * STEP - SPARE);
      const last = Math.ceil((top + innerHeight) / rowHeight / STEP) * STEP + SPARE;
      setRange((was) => (was[0] === first && was[1] === last ? was : [first, last]));
    };
    const soon = () => { frame ||= requestAnimationFrame(look); };
    look();
    addEventListener("scroll", soon, { passive: true });
    addEventListener("resize", soon, { passive: true });
    return () => { removeEventListener("scroll", soon); removeEventListener("resize", soon); cancelAnimationFrame(frame); };
  }, [rowHeight, rows.length]);
  const first = Math.min(range[0], Math.max(0, rows.length - 1)), shown = rows.slice(first, range[1]);
  const size = /** @type {"s" | "m" | "l"} */ (room.value);
  const there = columns.map((c, i) => ({ ...c, i })).filter((c) => SIZES.indexOf(size) >= SIZES.indexOf(c.from ?? "s"));
  const drawn = useRef({ deps: /** @type {any[]} */ ([]), nodes: /** @type {Map<string, any>} */ (new Map()) }).current;
  const now = [size, rowHeight, chosen, ...deps];
  const kept = now.length === drawn.deps.length && now.every((each, i) => each === drawn.deps[i]) ? drawn.nodes : new Map();
  drawn.deps = now;
  drawn.nodes = new Map();
  const grid = { gridTemplateColumns: there.map((c) => (size === "s" && c.narrow) || c.width).join(" ") };
  /** @param {any} each @param {number} at */
  const draw = (each, at) => {
    const key = keyOf(each, at);
    let known = kept.get(key);
    if (!known || known.each !== each || known.at !== at) {
      known = { each, at, node: html`<div key=${key} role="row" aria-rowindex=${at + 2} class=${cx("tr", tone?.(each), chosen === key && "chosen")}
          style=${{ ...grid, height: `${rowHeight}px`, transform: `translateY(${at * rowHeight}px)` }}>${cellsOf(row(each, at), there)}</div>` };
    }
    drawn.nodes.set(key, known);
    return known.node;
  };
  return html`<div class="table" role="table" aria-label=${label} aria-rowcount=${rows.length + 1}>
    <div class="tr th" role="row" aria-rowindex="1" style=${grid}>
      ${there.map((c) => html`<div key=${c.key} role="columnheader" class=${cx(c.end && "end")} aria-sort=${sort && c.sort === sort.by ? (sort.down ? "descending" : "ascending") : null}>
        ${c.sort && onSort ? html`<button onClick=${() => onSort(/** @type {string} */ (c.sort))}>${c.title}<span class="arrow" aria-hidden="true">${sort?.by === c.sort ? (sort.down ? "↓" : "↑") : ""}</span></button>` : c.title}</div>`)}
    </div>
    <div ref=${body} role="rowgroup" class="tbody" style=${{ height: `${rows.length * rowHeight}px` }}>
      ${shown.map((each, i) => draw(each, first + i))}
    </div>
  </div>`;
}

/** @param {any[]} cells @param {any[]} there */
const cellsOf = (cells, there) => there.map((c) => html`<div key=${c.key} role="cell" class=${cx(c.end && "end")}>${cells[c.i]}</div>`);
