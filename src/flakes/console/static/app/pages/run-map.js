// @ts-check
/**
 * The map: tasks from left to right as they depend on each other. The server has laid it out; here it is
 * drawn, coloured by state, moved and zoomed. A node is a link, so the keyboard reaches each of them.
 */
import { Link, setQuery, to } from "../router.js";
import { cx, html, number, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../lib.js";
import { Progress, StateIcon, word } from "../ui/state.js";

const EDGE = 24, TOOLS = 26, LEAST = 0.08, MOST = 2.5;

/** @param {{layout: any, tasks: any[], runKey: string, whole: boolean, link?: boolean}} props */
export function Map({ layout, tasks, runKey, whole, link = true }) {
  const frame = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [view, setView] = useState({ x: EDGE, y: EDGE, k: 1 });
  const [full, setFull] = useState(false);
  const [lit, setLit] = useState(/** @type {Set<number> | null} */ (null));
  const touched = useRef(false);
  const [width, setWidth] = useState(0);

  const fitted = Math.min(1, Math.max(0.32, width ? (width - 2 * EDGE) / layout.width : 1));
  const height = Math.round(Math.min(440, Math.max(130, layout.height * fitted + 2 * EDGE + TOOLS)));

  const fit = () => {
    const box = frame.current?.getBoundingClientRect();
    if (!box) return;
    touched.current = false;
    const k = Math.max(LEAST, Math.min(1, (box.width - 2 * EDGE) / layout.width, (box.height - 2 * EDGE - TOOLS) / layout.height));
    setView({ k, x: (box.width - layout.width * k) / 2, y: (box.height - TOOLS - layout.height * k) / 2 });
  };
  useLayoutEffect(() => {
    const observer = new ResizeObserver(() => { setWidth(frame.current?.clientWidth ?? 0); if (!touched.current) fit(); });
    if (frame.current) observer.observe(frame.current);
    return () => observer.disconnect();
  }, [layout]);
  useLayoutEffect(fit, [layout, full, height]);

  const zoom = (/** @type {number} */ by, /** @type {number} */ px, /** @type {number} */ py) => {
    touched.current = true;
    setView((v) => {
      const k = Math.min(MOST, Math.max(LEAST, v.k * by));
      return { k, x: px - ((px - v.x) * k) / v.k, y: py - ((py - v.y) * k) / v.k };
    });
  };
  const middle = (/** @type {number} */ by) => zoom(by, (frame.current?.clientWidth ?? 0) / 2, (frame.current?.clientHeight ?? 0) / 2);

  useEffect(() => { // not passive: with Ctrl the wheel belongs to the map
    const element = /** @type {HTMLDivElement} */ (frame.current);
    const wheel = (/** @type {WheelEvent} */ e) => {
      if (!e.ctrlKey && !e.metaKey && !full) return;
      e.preventDefault();
      const box = element.getBoundingClientRect();
      zoom(Math.exp(-e.deltaY / (e.deltaMode ? 8 : 240)), e.clientX - box.left, e.clientY - box.top);
    };
    element.addEventListener("wheel", wheel, { passive: false });
    return () => element.removeEventListener("wheel", wheel);
  }, [full]);

  const drag = (/** @type {PointerEvent} */ e) => {
    if (e.button !== 0 || /** @type {Element} */ (e.target).closest(".map-tools")) return;
    const start = { x: e.clientX, y: e.clientY, view };
    let moved = false;
    const move = (/** @type {PointerEvent} */ m) => {
      const dx = m.clientX - start.x, dy = m.clientY - start.y;
      if (!moved && Math.hypot(dx, dy) < 4) return;
      moved = touched.current = true;
      setView({ ...start.view, x: start.view.x + dx, y: start.view.y + dy });
    };
    const up = () => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", up);
      // A drag that began on a node is no click on it.
      if (moved) addEventListener("click", (c) => { c.preventDefault(); c.stopPropagation(); }, { capture: true, once: true });
      setTimeout(() => { moved = false; });
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", up);
  };
  const keys = (/** @type {KeyboardEvent} */ e) => {
    const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    const step = moves[/** @type {"ArrowUp"} */ (e.key)];
    if (step && e.target === frame.current) { touched.current = true; setView((v) => ({ ...v, x: v.x + step[0], y: v.y + step[1] })); }
    else if (e.key === "+" || e.key === "=") middle(1.25);
    else if (e.key === "-") middle(0.8);
    else if (e.key === "0") fit();
    else if (e.key === "Escape" && full) setFull(false);
    else return;
    e.preventDefault();
    e.stopPropagation();
  };

  const graph = useMemo(() => neighbours(layout), [layout]);
  const paths = useMemo(() => layout.edges.map((/** @type {any} */ e) => curve(layout, e)), [layout]);
  const light = (/** @type {number | null} */ i) => setLit(i === null ? null : lineage(graph, i));
  const states = useStates(layout, tasks, whole), nodes = useKept(layout, lit, runKey, link), edges = useKept(layout, lit);
  const leave = useCallback(() => light(null), []);
  return html`<div class=${cx("picture map", full && "full")} ref=${frame} tabindex="0" role="group" aria-label="Map of the tasks" style=${full ? {} : { height: `${height}px` }} onPointerDown=${drag} onKeyDown=${keys}>
    <div class="map-plane" style=${{ transform: `translate(${view.x}px, ${view.y}px) scale(${view.k})`, width: `${layout.width}px`, height: `${layout.height}px` }}>
      <svg width=${layout.width} height=${layout.height} aria-hidden="true">
        ${layout.edges.map((/** @type {any} */ e, /** @type {number} */ i) => edges(i, states[e.source].state, () => html`<path key=${i} d=${paths[i]} class=${cx("edge", e.spawned ? "spawned" : `from-${states[e.source].state}`, lit && (lit.has(e.source) && lit.has(e.target) ? "lit" : "faint"))} />`))}
      </svg>
      ${layout.nodes.map((/** @type {any} */ node, /** @type {number} */ i) => nodes(i, states[i], () => html`<${Node} key=${node.taskKeys[0]} node=${node} size=${layout} what=${states[i]} faint=${lit !== null && !lit.has(i)} runKey=${runKey} link=${link}
        onEnter=${() => light(i)} onLeave=${leave} />`))}
    </div>
    <div class="map-tools" role="group" aria-label="Zoom"><button aria-label="Zoom out" title="Zoom out (−)" onClick=${() => middle(0.8)}>−</button><button aria-label="Zoom in" title="Zoom in (+)" onClick=${() => middle(1.25)}>+</button><button title="Fit (0)" onClick=${fit}>Fit</button><button aria-pressed=${full ? "true" : "false"} onClick=${() => setFull(!full)}>${full ? "Close" : "Full"}</button></div>
  </div>`;
}

/** @param {any} props */
function Node({ node, size, what, faint, runKey, link, onEnter, onLeave }) {
  const style = { left: `${node.x}px`, top: `${node.y}px`, width: `${size.nodeWidth}px`, height: `${size.nodeHeight}px` };
  const common = { class: cx("node", `is-${what.state}`, faint && "faint"), style, onMouseEnter: onEnter, onMouseLeave: onLeave, onFocus: onEnter, onBlur: onLeave, draggable: false };
  if (what.counts) {
    return html`<button ...${common} title=${`${node.taskKeys.length} alike tasks: show them in the table`} onClick=${() => link && setQuery({ among: node.taskKeys[0] })}>
      <span class="stack" aria-hidden="true" /><span class="ellipsis">${number(node.taskKeys.length)} × ${nameOf(node)}</span><span class="node-bar"><${Progress} counts=${what.counts} /></span></button>`;
  }
  const task = what.task;
  const inner = html`${task ? html`<${StateIcon} state=${task.status} />` : null}<span class="ellipsis">${task?.title ?? node.taskKeys[0]}</span>${task?.attempt > 1 && html`<small>×${task.attempt}</small>`}`;
  if (!link) return html`<div ...${common} title=${task?.title ?? node.taskKeys[0]}>${inner}</div>`;
  return html`<${Link} to=${to("runs", runKey, "tasks", node.taskKeys[0])} ...${common} title=${task ? `${task.taskKey}: ${word(task.status).toLowerCase()}` : node.taskKeys[0]}>${inner}<//>`;
}

/** What was drawn for each thing, for as long as what it shows and the rest are the same: an event draws anew only what it changes. @param {...any} deps */
function useKept(...deps) {
  const own = useRef({ deps: /** @type {any[]} */ ([]), drawn: /** @type {{what: any, node: any}[]} */ ([]) }).current;
  if (deps.some((each, i) => each !== own.deps[i])) Object.assign(own, { deps, drawn: [] });
  return (/** @type {number} */ i, /** @type {any} */ what, /** @type {() => any} */ draw) => {
    if (own.drawn[i]?.what !== what) own.drawn[i] = { what, node: draw() };
    return own.drawn[i].node;
  };
}

/** @type {WeakMap<any, string>} */
const names = new WeakMap();
/** What the keys of a bundle have in common. @param {any} node */
function nameOf(node) {
  const known = names.get(node) ?? common(node.taskKeys);
  names.set(node, known);
  return known;
}

/** @param {string[]} keys */
function common(keys) {
  let prefix = keys[0];
  for (const key of keys) while (!key.startsWith(prefix)) prefix = prefix.slice(0, -1);
  return prefix.replace(/[-\d]+$/, "") || "tasks";
}

/** What each node shows: one task, or how many of a bundle are in which state. Only tasks that changed are looked at.
 * @param {any} layout @param {any[]} tasks @param {boolean} whole */
function useStates(layout, tasks, whole) {
  const own = useRef({ layout: null, whole, tasks: /** @type {any[]} */ ([]), nodeOf: /** @type {globalThis.Map<string, number>} */ (new globalThis.Map()), states: /** @type {any[]} */ ([]) }).current;
  if (own.layout !== layout || own.whole !== whole || own.tasks.length !== tasks.length) {
    Object.assign(own, { layout, whole, tasks, nodeOf: new globalThis.Map() });
    layout.nodes.forEach((/** @type {any} */ node, /** @type {number} */ i) => node.taskKeys.forEach((/** @type {string} */ key) => own.nodeOf.set(key, i)));
    own.states = layout.nodes.map((/** @type {any} */ node) => (node.taskKeys.length === 1 ? { task: null, counts: null, state: "SAVED" } : { task: null, counts: { [whole ? "SAVED" : "BLOCKED"]: node.taskKeys.length }, state: "SAVED" }));
    for (const task of tasks) change(own, null, task);
  } else if (own.tasks !== tasks) {
    own.states = own.states.slice();
    for (let i = 0; i < tasks.length; i++) if (own.tasks[i] !== tasks[i]) change(own, own.tasks[i], tasks[i]);
    own.tasks = tasks;
  }
  return own.states;
}

/** @param {any} own @param {any} before @param {any} task */
function change({ states, nodeOf, whole }, before, task) {
  const i = nodeOf.get(task.taskKey);
  if (i === undefined) return;
  if (!states[i].counts) { states[i] = { task, counts: null, state: task.status }; return; }
  const was = before ? before.status : whole ? "SAVED" : "BLOCKED";
  if (was === task.status) return;
  const counts = { ...states[i].counts, [task.status]: (states[i].counts[task.status] ?? 0) + 1 };
  counts[was]--;
  states[i] = { task: null, counts, state: WORST.find((s) => counts[s]) ?? "SAVED" };
}
const WORST = ["FAILED", "RUNNING", "WAITING", "QUEUED", "BLOCKED", "CANCELLED", "SUCCEEDED"];

/** @param {any} layout */
function neighbours(layout) {
  const before = layout.nodes.map(() => /** @type {number[]} */ ([])), after = layout.nodes.map(() => /** @type {number[]} */ ([]));
  for (const { source, target } of layout.edges) { after[source].push(target); before[target].push(source); }
  return { before, after };
}

/** A node, all that it depends on, and all that depends on it. @param {any} graph @param {number} node */
function lineage(graph, node) {
  const found = new Set([node]);
  for (const next of [graph.before, graph.after]) {
    const queue = [node];
    while (queue.length) for (const other of next[/** @type {number} */ (queue.pop())]) if (!found.has(other)) { found.add(other); queue.push(other); }
  }
  return found;
}

/** @param {any} layout @param {any} edge */
function curve(layout, edge) {
  const a = layout.nodes[edge.source], b = layout.nodes[edge.target], half = layout.nodeHeight / 2;
  let x = a.x + layout.nodeWidth, y = a.y + half, d = `M${x} ${y}`;
  const go = (/** @type {number} */ nx, /** @type {number} */ ny) => { const m = (x + nx) / 2; d += `C${m} ${y} ${m} ${ny} ${nx} ${ny}`; x = nx; y = ny; };
  edge.via.forEach((/** @type {number} */ height, /** @type {number} */ i) => {
    const left = (a.layer + 1 + i) * layout.column;
    go(left, height);
    d += `H${(x = left + layout.nodeWidth)}`;
  });
  go(b.x, b.y + half);
  return d;
}
