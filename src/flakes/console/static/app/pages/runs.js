// @ts-check
/** Every run, newest first: found by state, project and words, and as live as the event stream. */
import { get, v1 } from "../api.js";
import { Link, navigate, place, setQuery, to } from "../router.js";
import { cx, html, useEffect, useRef, useState } from "../lib.js";
import { useEvents, useResource } from "../resource.js";
import { streaming } from "../live.js";
import { Ago, Elapsed } from "../time.js";
import { Empty, Header, Problem } from "../ui/parts.js";
import { Progress, StateIcon, word } from "../ui/state.js";
import { Table } from "../ui/table.js";

const PAGE = 50;
const FILTERS = ["", "RUNNING", "QUEUED", "WAITING", "STALLED", "FAILED", "SUCCEEDED", "CANCELLED"];
const COLUMNS = [
  { key: "name", title: "Run", width: "minmax(0, 1fr)", sort: "name" },
  { key: "project", title: "Project", width: "130px", sort: "projectKey", from: "m" },
  { key: "progress", title: "Progress", width: "190px", sort: "progress", from: "m" },
  { key: "took", title: "Duration", width: "100px", from: "l", end: true },
  { key: "created", title: "Created", width: "90px", sort: "createdAt", from: "m", end: true },
  { key: "updated", title: "Last activity", width: "110px", narrow: "84px", sort: "updatedAt", end: true },
];

/** Runs that match, as many pages as were asked for, kept current by events. @param {any} filter */
function useRuns(filter) {
  const key = JSON.stringify(filter);
  const [state, setState] = useState({ key: "", runs: /** @type {any[]} */ ([]), next: /** @type {string | null} */ (null), error: /** @type {any} */ (null), loading: true });
  const own = useRef({ key, stale: new Set(), timer: 0, runs: /** @type {any[]} */ ([]), fresh: false });
  own.current.key = key;
  own.current.runs = state.runs;

  const load = async (/** @type {string | null} */ cursor) => {
    setState((s) => ({ ...(s.key === key ? s : { ...s, runs: [], next: null }), key, loading: true, error: null }));
    try {
      await streaming();
      const page = await get("/v1/runs", { ...filter, cursor, limit: PAGE });
      if (own.current.key !== key) return;
      setState((s) => ({ key, runs: cursor ? [...s.runs, ...page.runs] : page.runs, next: page.nextCursor, error: null, loading: false }));
    } catch (error) {
      if (own.current.key === key) setState((s) => ({ ...s, key, error, loading: false }));
    }
  };

  const refresh = async () => {
    const me = own.current;
    me.timer = 0;
    const ids = [...me.stale].slice(0, 40), fresh = me.fresh;
    me.stale.clear();
    me.fresh = false;
    try {
      const known = new Map(me.runs.map((run) => [run.runId, run]));
      const read = fresh || ids.length > 5 ? (await get("/v1/runs", { ...filter, limit: PAGE })).runs : [];
      const seen = new Map(read.map((/** @type {any} */ run) => [run.runId, run]));
      const rest = ids.filter((id) => known.has(id) && !seen.has(id)).slice(0, 10);
      const single = await Promise.all(rest.map((id) => get(v1("runs", id)).catch(() => null)));
      rest.forEach((id, i) => seen.set(id, single[i]));
      if (me.key !== key) return;
      setState((s) => {
        const runs = s.runs.map((run) => (seen.has(run.runId) ? seen.get(run.runId) : run)).filter((run) => run && (!filter.state || run.state === filter.state));
        const ids = new Set(runs.map((run) => run.runId));
        return { ...s, runs: [...read.filter((/** @type {any} */ run) => !ids.has(run.runId)), ...runs] };
      });
    } catch { /* the next event tries again */ }
  };

  useEffect(() => { load(null); }, [key]);
  useEvents((events) => {
    const me = own.current;
    for (const event of events) {
      if (!event.runId) continue;
      if (event.type === "run.created" || (event.type === "run.state" && !me.runs.some((run) => run.runId === event.runId))) me.fresh = true;
      if (/^(run|task)\./.test(event.type)) me.stale.add(event.runId);
    }
    if ((me.stale.size || me.fresh) && !me.timer) me.timer = setTimeout(refresh, 300);
  }, () => load(null));
  return { ...state, runs: state.key === key ? state.runs : [], more: () => state.next && load(state.next), reload: () => load(null) };
}

export function Runs() {
  const query = place.value.query;
  const filter = { state: query.get("state") ?? "", projectKey: query.get("project") ?? "", q: query.get("q") ?? "" };
  const { runs, next, error, loading, more, reload } = useRuns(filter);
  const projects = useResource("projects", (signal) => get("/v1/projects", { limit: 200 }, signal), { on: (e) => e.type.startsWith("project.") });
  const by = query.get("sort") ?? "createdAt", down = query.get("order") !== "up";
  const sorted = by === "createdAt" && down ? runs : [...runs].sort((a, b) => order(a, b, by) * (down ? -1 : 1));
  const filtered = filter.state || filter.projectKey || filter.q;
  return html`<${Header} title="Runs" actions=${html`<${Link} to="/new" class="button primary">New run<//>`} />
    <div class="filters">
      <div class="chips" role="group" aria-label="State">
        ${FILTERS.map((state) => html`<button key=${state} aria-pressed=${filter.state === state ? "true" : "false"} onClick=${() => setQuery({ state })}>${state ? html`<${StateIcon} state=${state} size=${14} />` : null}${state ? word(state) : "All"}</button>`)}
      </div>
      <span class="spring" />
      ${(projects.data?.projects.length ?? 0) > 1 && html`<select aria-label="Project" value=${filter.projectKey} onChange=${(/** @type {any} */ e) => setQuery({ project: e.target.value })}>
        <option value="">All projects</option>
        ${projects.data.projects.map((/** @type {any} */ p) => html`<option key=${p.projectKey} value=${p.projectKey}>${p.name}</option>`)}
      </select>`}
      <${Search} value=${filter.q} focus=${query.get("focus") === "search"} />
    </div>
    ${error && html`<${Problem} error=${error} retry=${reload} />`}
    ${runs.length > 0 && html`<${Table} label="Runs" columns=${COLUMNS} rows=${sorted} keyOf=${(/** @type {any} */ r) => r.runId} row=${cells}
      sort=${{ by, down }} onSort=${(/** @type {string} */ key) => setQuery({ sort: key === "createdAt" ? null : key, order: key === by && down ? "up" : null })} />`}
    ${!loading && !error && runs.length === 0 && (filtered
      ? html`<${Empty} title="No run matches"><button onClick=${() => navigate("/runs")}>Show all runs</button><//>`
      : html`<${Empty} title="No runs yet">A run is a graph of tasks. <${Link} to="/new">Start one here<//>, or from a terminal: <code>flakes run "do this"</code><//>`)}
    ${loading && runs.length === 0 && html`<div class="loading" role="status" aria-label="Loading"><i /><i /><i /></div>`}
    ${next && html`<div class="more"><button disabled=${loading} onClick=${more}>Load more</button>${by !== "createdAt" && html`<small class="muted">sorted among the ${runs.length} that are loaded</small>`}</div>`}`;
}

/** @param {any} a @param {any} b @param {string} by */
function order(a, b, by) {
  if (by === "progress") return share(a) - share(b);
  return a[by] < b[by] ? -1 : a[by] > b[by] ? 1 : 0;
}

/** @param {any} run */
const tally = (run) => {
  const { SUCCEEDED = 0, FAILED = 0, CANCELLED = 0 } = run.taskCounts;
  const total = /** @type {number[]} */ (Object.values(run.taskCounts)).reduce((sum, n) => sum + n, 0);
  return [SUCCEEDED + FAILED + CANCELLED, total];
};
const share = (/** @type {any} */ run) => { const [done, total] = tally(run); return total ? done / total : 0; };

/** @param {any} run */
function cells(run) {
  const [done, total] = tally(run);
  const live = ["RUNNING", "WAITING", "QUEUED", "STALLED"].includes(run.state);
  return [
    html`<div class="run-name"><${StateIcon} state=${run.state} label /><${Link} to=${to("runs", run.runKey)} data-row class="cover">${run.name}<//>${run.name !== run.runKey && html`<code class="muted">${run.runKey}</code>`}${run.deleting && html`<em class="muted">deleting</em>`}</div>`,
    html`<span class="muted ellipsis">${run.projectKey}</span>`,
    html`<span class="run-progress"><${Progress} counts=${run.taskCounts} /><span class="num muted">${done.toLocaleString("en")}/${total.toLocaleString("en")}</span></span>`,
    html`<${Elapsed} from=${run.createdAt} to=${run.completedAt ?? (live ? null : run.updatedAt)} />`,
    html`<${Ago} at=${run.createdAt} />`,
    html`<${Ago} at=${run.updatedAt} />`,
  ];
}

/** Words, taken once the typing pauses. @param {{value: string, focus: boolean}} props */
function Search({ value, focus }) {
  const ref = useRef(/** @type {HTMLInputElement | null} */ (null));
  const timer = useRef(0);
  useEffect(() => { if (focus) { ref.current?.focus(); setQuery({ focus: null }); } }, [focus]);
  useEffect(() => { if (ref.current && ref.current.value !== value && document.activeElement !== ref.current) ref.current.value = value; }, [value]);
  return html`<label class=${cx("search")}><span class="sr">Search runs</span><input ref=${ref} type="search" placeholder="Search name or key" defaultValue=${value}
    onInput=${(/** @type {any} */ e) => { clearTimeout(timer.current); const text = e.target.value.trim(); timer.current = setTimeout(() => setQuery({ q: text }), 200); }} /><kbd aria-hidden="true">/</kbd></label>`;
}
