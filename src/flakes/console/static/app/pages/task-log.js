// @ts-check
/** The log of a task over all its attempts, followed while it grows; it stays at the end only while the reader is there. */
import { v1 } from "../api.js";
import { pieces } from "../ansi.js";
import { useFollowed } from "../following.js";
import { cx, html, useLayoutEffect, useMemo, useRef, useState } from "../lib.js";
import { clock, local } from "../time.js";
import { Problem } from "../ui/parts.js";

const LINE = 19, TAIL = 1_000;

/** Lines as they come. @param {string} taskId @param {string} channel @param {boolean} whole @param {number} again */
const useLog = (taskId, channel, whole, again) => useFollowed(`${taskId} ${channel} ${whole} ${again}`, v1("tasks", taskId, "logs"), { channel }, whole ? {} : { tail: TAIL });

/** @param {{task: any}} props */
export function Log({ task }) {
  const [channel, setChannel] = useState("");
  const [whole, setWhole] = useState(false);
  const [words, setWords] = useState("");
  const [times, setTimes] = useState(true);
  // Another attempt after the end of the log: follow anew.
  const log = useLog(task.taskId, channel, whole, task.status === "RUNNING" || task.status === "QUEUED" ? task.attempt : 0);
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const stuck = useRef(true);
  const [view, setView] = useState({ top: 0, height: 480, atEnd: true });
  const lines = log.entries.value, status = log.status.value;
  const wanted = words.trim().toLowerCase();
  const rows = useMemo(() => (wanted ? lines.filter((line) => line.text.toLowerCase().includes(wanted)) : lines), [lines, wanted]);

  useLayoutEffect(() => { const e = box.current; if (e && stuck.current) e.scrollTop = e.scrollHeight; }, [rows, status]);
  const scrolled = () => {
    const e = box.current;
    if (!e) return;
    stuck.current = e.scrollHeight - e.scrollTop - e.clientHeight < LINE * 2;
    setView({ top: e.scrollTop, height: e.clientHeight, atEnd: stuck.current });
  };
  const first = Math.max(0, Math.floor(view.top / LINE) - 20), last = Math.ceil((view.top + Math.max(view.height, 480)) / LINE) + 20;
  const from = view.atEnd ? Math.max(0, rows.length - Math.ceil(Math.max(view.height, 480) / LINE) - 40) : first;
  const shown = rows.slice(from, view.atEnd ? rows.length : last);
  return html`<div class="log-card card">
    <div class="card-head">
      <select aria-label="Channel" value=${channel} onChange=${(/** @type {any} */ e) => setChannel(e.target.value)}><option value="">All channels</option><option>stdout</option><option>stderr</option><option>system</option></select>
      <label class="search"><span class="sr">Find in the log</span><input type="search" placeholder="Find in the log" onInput=${(/** @type {any} */ e) => setWords(e.target.value)} /><kbd aria-hidden="true">/</kbd></label>
      <label class="check"><input type="checkbox" checked=${times} onChange=${() => setTimes(!times)} />Times</label>
      <span class="spring" />
      <span class="muted num" role="status">${rows.length.toLocaleString("en")}${wanted ? ` of ${lines.length.toLocaleString("en")}` : ""} lines${{ live: ", following", ended: "", lost: ", reconnecting", connecting: "" }[status]}</span>
      ${!whole && lines.length >= TAIL && html`<button onClick=${() => setWhole(true)}>From the beginning</button>`}
    </div>
    ${log.error.value && html`<${Problem} error=${log.error.value} />`}
    <div class="log" ref=${box} onScroll=${scrolled} tabindex="0" role="log" aria-label="Log" aria-live="off">
      ${rows.length === 0 && html`<p class="muted log-empty">${status === "live" || status === "ended" ? (wanted ? "No line matches." : status === "ended" ? "It printed nothing." : "Nothing printed yet.") : "…"}</p>`}
      <div style=${{ height: `${rows.length * LINE}px` }}><div style=${{ transform: `translateY(${from * LINE}px)` }}>
        ${shown.map((line) => html`<div key=${line.cursor} class=${cx("log-line", `ch-${line.channel}`)}>${times && html`<time datetime=${line.at} title=${local(line.at)}>${clock(line.at)}</time>`}<span>${pieces(line.text).map(([name, text]) => (name ? html`<span class=${name}>${text}</span>` : text))}</span></div>`)}
      </div></div>
    </div>
    ${!view.atEnd && status === "live" && html`<button class="log-jump" onClick=${() => { stuck.current = true; const e = box.current; if (e) e.scrollTop = e.scrollHeight; }}>Jump to the end ↓</button>`}
  </div>`;
}
