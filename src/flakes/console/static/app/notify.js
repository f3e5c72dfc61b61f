// @ts-check
/** Notifications of the browser, for who asked for them: a task waits for an answer, a run ended. */
import { get, v1 } from "./api.js";
import { signal } from "./lib.js";
import { subscribe } from "./live.js";
import { BASE, navigate, to } from "./router.js";

const KEY = "flakes.notify";
const stored = () => { try { return localStorage.getItem(KEY) === "on"; } catch { return false; } };

/** Whether somebody asked for them, here. */
export const wanted = signal(stored() && "Notification" in globalThis && Notification.permission === "granted");
/** Requests that wait for an answer. */
export const waiting = signal(0);

export async function toggle() {
  const on = !wanted.value && "Notification" in globalThis && (await Notification.requestPermission()) === "granted";
  wanted.value = on;
  try { localStorage.setItem(KEY, on ? "on" : "off"); } catch { /* for this visit only, then */ }
  return on;
}

/** Begin to listen; says whether a hidden tab should keep its stream. */
export function watch() {
  let timer = 0;
  const count = async () => {
    timer = 0;
    try { waiting.value = (await get("/v1/permissions", { status: "pending", limit: 100 })).permissions.length; } catch { /* with the next event */ }
  };
  count();
  subscribe((events) => {
    if (events.some((e) => e.type.startsWith("permission.")) && !timer) timer = setTimeout(count, 150);
    if (!wanted.value || !document.hidden) return;
    for (const event of events.slice(-20)) tell(event);
  }, count);
  return () => wanted.value;
}

/** @param {import("./live.js").Event} event */
async function tell(event) {
  if (event.type === "permission.requested") show(`${event.taskKey} asks`, event.data.prompt, "/inbox");
  if (event.type === "run.state" && ["SUCCEEDED", "FAILED", "CANCELLED", "STALLED"].includes(event.data.state)) {
    const run = await get(v1("runs", /** @type {string} */ (event.runId))).catch(() => null);
    if (run) show(`${run.name}: ${event.data.state.toLowerCase()}`, run.runKey, to("runs", run.runKey));
  }
}

/** @param {string} title @param {string} body @param {string} target */
function show(title, body, target) {
  // One tag for one thing: several open tabs show it once.
  const notice = new Notification(title, { body, tag: title + body, icon: BASE + "/static/x/icon.svg" });
  notice.onclick = () => { focus(); navigate(target); notice.close(); };
}
