// @ts-check
/**
 * The one event stream of this tab. It starts at "now", remembers the cursor of the last event, and resumes
 * there after every interruption, so that nothing is missed. Events are gathered and handed on ten times a second at most.
 * A tab that nobody looks at lets go of its stream after a while: browsers allow six connections to a server.
 */
import { get, me, send } from "./api.js";
import { signal } from "./lib.js";
import { SseParser } from "./sse.js";

const SILENCE_MS = 25_000; // the server sends something every 15 s
const HIDDEN_MS = 60_000;
/** Between two times that events are handed on; the first after a pause is not kept waiting. */
const GATHER_MS = 100;
const BACKOFF_MS = [300, 600, 1_200, 2_500, 5_000, 10_000];

/** `connecting`, `live`, `lost` or `paused`. */
export const connection = signal("connecting");
/** When it was lost, in ms; 0 while it is not. */
export const lostSince = signal(0);

/** @typedef {{cursor: string, type: string, at: string, runId?: string, taskId?: string, taskKey?: string, data: any}} Event */
/** @type {Set<{onEvents: (events: Event[]) => void, onResync?: () => void}>} */
const listeners = new Set();
/** @type {Event[]} */
let waiting = [];
let cursor = "", scheduled = false, attempt = 0, flushedAt = 0;
/** @type {AbortController | null} */
let controller = null;
let hiddenTimer = 0;
/** Whether a hidden tab keeps its stream (for notifications). */
let stays = () => false;
/** @type {() => void} */
let opened = () => {};
/** Resolves when the stream is open for the first time: what is read after that misses nothing. */
const ready = new Promise((resolve) => { opened = () => resolve(undefined); });

/** Wait for the stream, but not for ever. */
export const streaming = () => Promise.race([ready, new Promise((resolve) => setTimeout(resolve, 1_500))]);

/**
 * Hear of events from now on; `onResync` says that some may have been missed. Returns how to stop.
 * @param {(events: Event[]) => void} onEvents @param {() => void} [onResync]
 */
export function subscribe(onEvents, onResync) {
  const listener = { onEvents, onResync };
  listeners.add(listener);
  return () => { listeners.delete(listener); };
}

/** @param {() => boolean} keepsWhenHidden */
export function start(keepsWhenHidden) {
  stays = keepsWhenHidden;
  addEventListener("online", () => again(0));
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiddenTimer);
    if (document.hidden) hiddenTimer = setTimeout(pause, HIDDEN_MS);
    else if (connection.value === "paused") again(0);
  });
  run();
}

export function stop() {
  controller?.abort("stopped");
  controller = null;
}

function pause() {
  if (stays()) return;
  connection.value = "paused";
  stop();
}

let retryTimer = 0;
/** @param {number} delayMs */
function again(delayMs) {
  clearTimeout(retryTimer);
  retryTimer = setTimeout(run, delayMs);
}

async function run() {
  clearTimeout(retryTimer);
  stop();
  if (me.value === null) return;
  const mine = (controller = new AbortController());
  let watchdog = 0;
  const heard = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => mine.abort("silent"), SILENCE_MS);
  };
  if (connection.value === "paused") connection.value = "connecting";
  try {
    heard();
    const fresh = !cursor;
    const response = await send("GET", "/v1/events", { query: { after: cursor || "now" }, signal: mine.signal });
    if (fresh && attempt) resync();
    attempt = 0;
    connection.value = "live";
    lostSince.value = 0;
    opened();
    const parser = new SseParser();
    const reader = /** @type {ReadableStream} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      heard();
      for (const frame of parser.push(value)) {
        if (frame.id) cursor = frame.id;
        if (frame.data) enqueue(JSON.parse(frame.data));
      }
    }
  } catch (error) {
    if (/** @type {any} */ (error).status === 400 && cursor) { // another database: its log has other cursors
      cursor = "";
      resync();
    }
  } finally {
    clearTimeout(watchdog);
  }
  if (controller !== mine) return; // somebody stopped or restarted it
  if (me.value === null) return;
  if (!lostSince.value) lostSince.value = Date.now();
  connection.value = "lost";
  again(BACKOFF_MS[Math.min(attempt++, BACKOFF_MS.length - 1)] * (0.75 + Math.random() / 2));
}

/** @param {Event} event */
function enqueue(event) {
  waiting.push(event);
  if (scheduled) return;
  scheduled = true;
  const wait = Math.max(0, flushedAt + GATHER_MS - performance.now());
  if (document.hidden || wait > 0) setTimeout(() => (document.hidden ? flush() : requestAnimationFrame(flush)), Math.max(wait, document.hidden ? GATHER_MS : 0));
  else requestAnimationFrame(flush);
}

function flush() {
  scheduled = false;
  flushedAt = performance.now();
  const events = waiting;
  waiting = [];
  for (const listener of [...listeners]) listener.onEvents(events);
}

function resync() {
  for (const listener of [...listeners]) listener.onResync?.();
}

/** Who is signed in, and with that whether there is a server. */
export async function identify() {
  try {
    me.value = await get("/v1/me");
  } catch (error) {
    if (/** @type {any} */ (error).status !== 401) throw error;
    me.value = null;
  }
}
