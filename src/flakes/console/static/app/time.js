// @ts-check
/** Moments and durations for people: relative on screen, exact and local on hover. */
import { html, signal } from "./lib.js";

/** The present, in ms; it moves once a second while somebody looks. */
export const now = signal(Date.now());
setInterval(() => { if (!document.hidden) now.value = Date.now(); }, 1_000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) now.value = Date.now(); });

/** `840 ms`, `12 s`, `4 m 10 s`, `3 h 05 m`, `2 d 4 h`. @param {number | null | undefined} ms */
export function duration(ms) {
  if (ms == null || Number.isNaN(ms)) return "–";
  ms = Math.max(0, ms);
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  const s = Math.floor(ms / 1_000), m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (s < 60) return `${s} s`;
  if (m < 60) return s % 60 ? `${m} m ${String(s % 60).padStart(2, "0")} s` : `${m} m`;
  if (h < 24) return `${h} h ${String(m % 60).padStart(2, "0")} m`;
  return `${d} d ${h % 24} h`;
}

/** @param {number} ms */
function ago(ms) {
  const s = Math.round(ms / 1_000);
  if (s < -5) return `in ${coarse(-s)}`;
  return s < 3 ? "now" : `${coarse(s)} ago`;
}

/** @param {number} s */
function coarse(s) {
  if (s < 60) return `${s} s`;
  if (s < 3_600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3_600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clockFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

/** @param {string} at */
export const clock = (at) => clockFormat.format(new Date(at));
/** @param {string} at */
export const local = (at) => exact.format(new Date(at));

/** A moment, as long ago as it is. @param {{at?: string | null}} props */
export function Ago({ at }) {
  if (!at) return html`<span class="muted">–</span>`;
  return html`<time datetime=${at} title=${local(at)}>${ago(now.value - Date.parse(at))}</time>`;
}

/** How long something took, or takes. @param {{from?: string | null, to?: string | null}} props */
export function Elapsed({ from, to }) {
  if (!from) return html`<span class="muted">–</span>`;
  const end = to ? Date.parse(to) : Math.max(now.value, Date.parse(from));
  const ms = end - Date.parse(from);
  return html`<span class="num">${duration(to ? ms : Math.floor(ms / 1_000) * 1_000)}</span>`;
}
