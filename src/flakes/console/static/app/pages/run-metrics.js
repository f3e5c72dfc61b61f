// @ts-check
/** How long a run's work waited and ran, how it ended, and how much went on at the same time. */
import { get, v1 } from "../api.js";
import { html, useCalm, useEffect, useMemo } from "../lib.js";
import { ms } from "../reducer.js";
import { useResource } from "../resource.js";
import { duration, now } from "../time.js";
import { Loaded, Wide } from "../ui/parts.js";

const WHATS = [["queue", "Queue", "ready until offered"], ["assignment", "Assignment", "offered until accepted"], ["run", "Run", "accepted until ended"], ["wait", "Wait", "yielded until ready again"]];

/** @param {{model: import("../run-model.js").RunModel}} props */
export function Metrics({ model }) {
  const run = model.run.value;
  const metrics = useResource(`metrics ${run.runId}`, (signal) => get(v1("runs", run.runId, "metrics"), {}, signal), { on: (e) => e.runId === run.runId && /^(task|attempt|run)\./.test(e.type), everyMs: 1_000 });
  useEffect(() => { if (!model.attempts.value) model.loadAttempts(); }, []);
  return html`<${Loaded} from=${metrics}>${(/** @type {any} */ m) => html`
    <dl class="tiles">
      <${Tile} name="Success" value=${m.success.rate == null ? "–" : `${Math.round(m.success.rate * 100)} %`} note=${`${m.success.succeeded} of ${m.success.succeeded + m.success.failed + m.success.cancelled} ended`} />
      <${Tile} name="Wall time" value=${duration(m.wallMs)} note=${m.success.live ? "so far" : ""} />
      <${Tile} name="Attempts" value=${m.attempts.toLocaleString("en")} note=${`${m.retries} retried`} />
      <${Tile} name="Lost with a sandbox" value=${m.infrastructureLosses.toLocaleString("en")} note=${`${m.declined} declined`} />
      <${Tile} name="At once" value=${m.parallelism.mean == null ? "–" : m.parallelism.mean.toFixed(1)} note=${`at most ${m.parallelism.max}`} />
      <${Tile} name="Tokens" value=${m.tokens == null ? "–" : m.tokens.toLocaleString("en")} note=${m.tokens == null ? "no agent told" : ""} />
      <${Tile} name="Cost" value=${m.costMicroUsd == null ? "–" : `$${(m.costMicroUsd / 1e6).toFixed(2)}`} note=${m.costMicroUsd == null ? "no agent told" : ""} />
    </dl>
    <section class="section"><h2>Running at the same time</h2><${Concurrency} model=${model} /></section>
    <section class="section"><h2>How long things took</h2><${Spread} metrics=${m} /></section>`}<//>`;
}

/** @param {{name: string, value: string, note?: string}} props */
const Tile = ({ name, value, note }) => html`<div class="tile"><dt>${name}</dt><dd>${value}</dd>${note && html`<dd class="tile-note">${note}</dd>`}</div>`;

/** Distributions on one logarithmic scale. @param {{metrics: any}} props */
function Spread({ metrics }) {
  const most = Math.max(10, ...WHATS.map(([key]) => metrics[key].maxMs ?? 0));
  const at = (/** @type {number} */ ms) => (100 * Math.log10(1 + Math.max(0, ms))) / Math.log10(1 + most);
  return html`<${Wide}><table class="plain-table spread"><thead><tr><th>What</th><th class="wide">Median to 90th percentile, and the longest</th><th class="end">Count</th><th class="end">Mean</th><th class="end">50 %</th><th class="end">90 %</th><th class="end">99 %</th><th class="end">Longest</th></tr></thead><tbody>
    ${WHATS.map(([key, name, what]) => { const d = metrics[key]; return html`<tr key=${key}><th scope="row">${name}<small class="muted">${what}</small></th>
      <td>${d.count ? html`<span class="strip" aria-hidden="true"><i class="whole" style=${{ width: `${at(d.maxMs)}%` }} /><i class="most" style=${{ left: `${at(d.p50Ms)}%`, width: `${Math.max(0.5, at(d.p90Ms) - at(d.p50Ms))}%` }} /><i class="tick" style=${{ left: `${at(d.p99Ms)}%` }} /></span>` : html`<span class="muted">none</span>`}</td>
      <td class="end num">${d.count.toLocaleString("en")}</td>${["meanMs", "p50Ms", "p90Ms", "p99Ms", "maxMs"].map((n) => html`<td class="end num">${d[n] == null ? "–" : duration(d[n])}</td>`)}</tr>`; })}
  </tbody></table><//>`;
}

/** How many attempts ran at the same time, in columns: the most within each, however many attempts. @param {Map<string, any>} attempts @param {number} present */
function levelsOf(attempts, present) {
  const COLUMNS = 500, began = [], over = [];
  for (const a of attempts.values()) if (a.acceptedAt) { began.push(ms(a.acceptedAt)); over.push(a.endedAt ? ms(a.endedAt) : present); }
  if (!began.length) return null;
  const starts = Float64Array.from(began).sort(), ends = Float64Array.from(over).sort();
  const from = starts[0], until = Math.max(ends[ends.length - 1], from + 1), levels = new Array(COLUMNS).fill(0);
  let level = 0, column = 0;
  for (let i = 0, j = 0; j < ends.length;) {
    const starting = i < starts.length && starts[i] <= ends[j];
    const here = Math.min(COLUMNS - 1, Math.floor((((starting ? starts[i] : ends[j]) - from) / (until - from)) * COLUMNS));
    while (column < here) levels[++column] = level;
    starting ? (level++, i++) : (level--, j++);
    levels[column] = Math.max(levels[column], level);
  }
  return { levels, from, until };
}

/** @param {{model: import("../run-model.js").RunModel}} props */
function Concurrency({ model }) {
  const attempts = useCalm(model.attempts.value, 1_000), moment = useCalm(now.value, 1_000);
  const found = useMemo(() => attempts && levelsOf(attempts, moment), [attempts, moment]);
  if (!attempts) return html`<div class="chart" />`;
  if (!found) return html`<p class="muted">Nothing has run yet.</p>`;
  const { levels, from, until } = found, W = 1_000, H = 120, COLUMNS = levels.length;
  const most = Math.max(...levels, 1), y = (/** @type {number} */ n) => H - (n / most) * (H - 12);
  const path = levels.map((n, i) => `${i ? "L" : "M"}${(i * W) / COLUMNS} ${y(n)}H${((i + 1) * W) / COLUMNS}`).join("");
  return html`<figure class="chart"><svg viewBox=${`0 0 ${W} ${H}`} preserveAspectRatio="none" role="img" aria-label=${`Attempts at the same time, at most ${most}`}>
    <path d="M0 ${H}H${W}" class="ground" /><path d=${`${path}V${H}H0Z`} class="area" /><path d=${path} class="line" /></svg>
    <figcaption><span>0</span><span>at most ${most}</span><span>${duration(until - from)}</span></figcaption></figure>`;
}
