// @ts-check
/** What the agent of a task said and did: as a conversation that is followed, or as its own records. */
import { call, v1 } from "../api.js";
import { useFollowed } from "../following.js";
import { count, cx, html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../lib.js";
import { useResource } from "../resource.js";
import { clock, duration, local } from "../time.js";
import { Empty, Loaded, Markdown, Panel, Problem, Tabs, bytes, chosenTab } from "../ui/parts.js";
import { StateIcon } from "../ui/state.js";

const STEP = 200, RAW_MAX = 1_000_000;
/** @type {Record<string, string>} */
const SOURCES = { brief: "Brief", follow_up: "Follow up", correction: "Correction", resume: "Resumed", interrupt: "Interrupted", budget: "Budget" };

/** @param {{task: any, reload: () => void}} props */
export function Transcript({ task, reload }) {
  const form = chosenTab("form", "parsed"), live = task.status === "RUNNING";
  const log = useFollowed(`${task.taskId} ${live ? task.attempt : 0}`, v1("tasks", task.taskId, "transcript"), {});
  const entries = log.entries.value, status = log.status.value;
  const parts = useMemo(() => parsed(entries), [entries]);
  const spent = useMemo(() => entries.filter((e) => e.kind === "usage" || e.kind === "turn").length, [entries]);
  useEffect(() => { if (spent && live) reload(); }, [spent]);
  const path = v1("tasks", task.taskId, "transcript");
  return html`<div class="section-head"><${Tabs} name="form" small label="Form of the transcript" tabs=${[["parsed", "Parsed"], ["raw", "Raw"]]} />
      <span class="muted" role="status">${count(entries.length, "entry", "entries")}${{ live: ", following", ended: "", lost: ", reconnecting", connecting: "" }[status]}</span><span class="spring" />
      ${entries.length > 0 && html`<a class="button" href=${`${path}?format=raw`} download=${`${task.taskKey}.transcript.jsonl`}>Download</a>`}</div>
    ${log.error.value && html`<${Problem} error=${log.error.value} />`}
    <${Panel} name="form" chosen=${form}>${entries.length === 0 && (status === "live" || status === "ended")
      ? html`<${Empty} title=${live ? "Nothing said yet" : "No transcript"}>${task.adapter === "command" ? "A command has none: what it prints is in the log." : "What the agent says and does appears here as it happens."}<//>`
      : form === "raw" ? html`<${Raw} path=${path} entries=${entries.length} live=${status === "live"} />` : html`<${Parsed} parts=${parts} follow=${status === "live"} attempts=${task.attempts ?? []} />`}<//>`;
}

/** The conversation, its end first read; earlier parts on request. @param {{parts: any[], follow: boolean, attempts: any[]}} props */
function Parsed({ parts, follow, attempts }) {
  const [shown, setShown] = useState(STEP);
  const box = useRef(/** @type {HTMLDivElement | null} */ (null)), stuck = useRef(true);
  const [away, setAway] = useState(false);
  const end = () => { const e = box.current; if (e) e.scrollTop = e.scrollHeight; };
  useLayoutEffect(() => { if (follow && stuck.current) end(); }, [parts, follow]);
  const scrolled = () => { const e = box.current; if (!e) return; stuck.current = e.scrollHeight - e.scrollTop - e.clientHeight < 60; setAway(!stuck.current); };
  const first = Math.max(0, parts.length - shown), numbers = new Map(attempts.map((a) => [a.assignmentId, a.attempt]));
  return html`<div class="talk-card card"><div class="talk" ref=${box} onScroll=${scrolled} tabindex="0" role="log" aria-live="off" aria-label="Transcript">
      ${first > 0 && html`<div class="more"><button onClick=${() => { stuck.current = false; setShown(shown + STEP); }}>Show ${Math.min(STEP, first)} earlier of ${first.toLocaleString("en")}</button></div>`}
      ${parts.slice(first).map((part, i) => { const before = parts[first + i - 1]; return html`${attempts.length > 1 && before?.assignmentId !== part.assignmentId && html`<p class="talk-attempt" key=${`a${part.cursor}`}>Attempt ${numbers.get(part.assignmentId) ?? ""}</p>`}<${Part} key=${part.cursor} part=${part} />`; })}
    </div>${follow && away && html`<button class="log-jump" onClick=${() => { stuck.current = true; end(); }}>Jump to the end ↓</button>`}</div>`;
}

/** @param {{part: any}} props */
function Part({ part }) {
  const { kind, data, at } = part;
  const when = html`<time class="muted" datetime=${at} title=${local(at)}>${clock(at)}</time>`;
  if (kind === "text") return html`<article class="said agent"><header><strong>Agent</strong>${when}</header><${Seen} text=${data.text ?? ""} /></article>`;
  if (kind === "prompt" || kind === "steer") return html`<article class="said"><header><strong>${kind === "steer" ? "Steer" : SOURCES[data.source] ?? "Prompt"}</strong>${when}</header><${Long} text=${data.text ?? ""} /></article>`;
  if (kind === "thinking") return html`<details class="did"><summary><span class="muted">Thinking</span><span class="ellipsis muted">${line(data.text)}</span>${when}</summary><p class="thought">${data.text}</p></details>`;
  if (kind === "tool") return html`<${Tool} part=${part} when=${when} />`;
  const [state, words] = told(kind, data);
  return html`<div class="did line"><${StateIcon} state=${state} size=${14} /><span>${words}</span>${when}</div>`;
}

/** One use of a tool: what went in, what came out. @param {any} props */
function Tool({ part: { data, ended }, when }) {
  const input = data.input, command = input && (input.command ?? input.cmd ?? input.path ?? input.file_path ?? input.pattern ?? input.query ?? input.url);
  const state = !ended ? "RUNNING" : ended.ok === false ? "FAILED" : "SUCCEEDED";
  return html`<details class=${cx("did", state === "FAILED" && "bad")}><summary><${StateIcon} state=${state} size=${14} label /><strong>${data.name ?? "tool"}</strong><code class="ellipsis">${line(typeof command === "string" ? command : input === undefined ? "" : JSON.stringify(input))}</code>${ended && html`<span class="muted num">${duration(ended.tookMs)}</span>`}${when}</summary>
    ${input !== undefined && html`<pre tabindex="0">${typeof input === "string" ? input : JSON.stringify(input, null, 2)}</pre>`}
    ${ended ? html`<pre tabindex="0">${text(ended.output) || "(nothing came out)"}</pre>` : html`<p class="muted">It has not answered yet.</p>`}</details>`;
}

/** @param {any} value */
const text = (value) => (value == null ? "" : typeof value === "string" ? value : JSON.stringify(value, null, 2));
/** @param {any} value */
const line = (value) => text(value).trim().split("\n")[0].slice(0, 300);

/** Small events as a sign and words. @param {string} kind @param {any} data @returns {[string, string]} */
function told(kind, data) {
  if (kind === "session") return ["CREATED", `${data.resumed ? "Went on with" : "Began"} session ${data.value ?? ""}`];
  if (kind === "question") return ["WAITING", `Asks: ${data.title ?? data.effect ?? "may it?"}`];
  if (kind === "decision") return [data.allowed ? "SUCCEEDED" : "FAILED", `${data.allowed ? "Allowed" : "Refused"}${data.by ? ` by ${data.by}` : ""}${data.reason ? `: ${data.reason}` : ""}`];
  if (kind === "notice") return [data.level === "error" ? "FAILED" : data.level === "warning" ? "STALLED" : "CREATED", data.text ?? ""];
  if (kind === "turn") return [data.error ? "FAILED" : "SUCCEEDED", `Turn ${data.status ?? "ended"}${data.error ? `: ${typeof data.error === "string" ? data.error : data.error.message ?? ""}` : ""}`];
  return ["CREATED", kind];
}

/** Entries as parts: both ends of a tool's use are one; records that say nothing here are left out. @param {any[]} entries */
export function parsed(entries) {
  const parts = [], open = new Map();
  for (const entry of entries) {
    const { kind, data } = entry;
    if (kind === "record" || kind === "usage") continue;
    if (kind === "tool" && data.state === "end") {
      const at = open.get(entry.assignmentId + data.id);
      const end = { ok: data.ok, output: data.output };
      if (at === undefined) parts.push({ ...entry, ended: end });
      else parts[at] = { ...parts[at], ended: { ...end, tookMs: Date.parse(entry.at) - Date.parse(parts[at].at) } };
      continue;
    }
    if (kind === "tool") open.set(entry.assignmentId + data.id, parts.length);
    parts.push(entry);
  }
  return parts;
}

/** Rendered once it is in sight. @param {{text: string}} props */
function Seen({ text: words }) {
  const ref = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [seen, setSeen] = useState(false);
  useEffect(() => {
    if (!ref.current) return;
    const observer = new IntersectionObserver((all) => { if (all.some((e) => e.isIntersecting)) { setSeen(true); observer.disconnect(); } });
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return html`<div ref=${ref}>${seen ? html`<${Markdown} text=${words} />` : html`<div class="prose plain">${words}</div>`}</div>`;
}

/** A text whose end can be folded away. @param {{text: string}} props */
function Long({ text: words }) {
  const lines = words.split("\n");
  if (lines.length <= 6 && words.length <= 600) return html`<p class="message-text">${words}</p>`;
  return html`<details class="long"><summary>${lines.slice(0, 3).join(" ").slice(0, 240)} …</summary><p class="message-text">${words}</p></details>`;
}

/** The agent's own records, read again as it says more. @param {{path: string, entries: number, live: boolean}} props */
function Raw({ path, entries, live }) {
  const raw = useResource(`raw ${path}`, (signal) => call("GET", path, { query: { format: "raw" }, text: true, signal }));
  const size = raw.data?.length ?? 0, small = size < RAW_MAX, known = useRef(entries);
  useEffect(() => {
    if (entries === known.current || !live || !small) return;
    const timer = setTimeout(() => { known.current = entries; raw.reload(); }, 1_000);
    return () => clearTimeout(timer);
  }, [entries, live, small]);
  return html`<${Loaded} from=${raw}>${(/** @type {string} */ all) => all ? html`${!small && html`<p class="muted lead">The last ${bytes(RAW_MAX)} of ${bytes(size)}. <button class="quiet" onClick=${raw.reload}>Read again</button></p>`}<pre class="code-block raw" tabindex="0">${small ? all : all.slice(-RAW_MAX)}</pre>` : html`<${Empty} title="No records of its own">This agent leaves none; the parsed form has all there is.<//>`}<//>`;
}
