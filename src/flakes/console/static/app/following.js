// @ts-check
/** What grows while a task runs (its log, its transcript): read, then followed, resumed by cursor, until it ends. */
import { send } from "./api.js";
import { signal, useEffect, useMemo } from "./lib.js";
import { SseParser } from "./sse.js";

const KEPT = 50_000;

/**
 * Entries as they come, the newest 50,000 of them. A tab that nobody looks at lets go of the stream.
 * @param {string} key another key starts anew @param {string} path @param {Record<string, any>} query
 * @param {Record<string, any>} [beginning] for the first request alone; later ones begin after the last entry
 * @returns {{entries: {value: any[]}, status: {value: string}, error: {value: any}}} `status`: connecting, live, lost or ended
 */
export function useFollowed(key, path, query, beginning = {}) {
  const state = useMemo(() => ({ entries: signal(/** @type {any[]} */ ([])), status: signal("connecting"), error: signal(/** @type {any} */ (null)) }), [key]);
  useEffect(() => {
    let cursor = "", gone = false, frame = 0, attempt = 0, timer = 0;
    /** @type {any[]} */
    let fresh = [];
    let controller = new AbortController();
    const flush = () => {
      frame = 0;
      const all = state.entries.value.concat(fresh);
      fresh = [];
      state.entries.value = all.length > KEPT ? all.slice(-KEPT) : all;
    };
    const run = async () => {
      if (gone || document.hidden) return;
      controller = new AbortController();
      try {
        const response = await send("GET", path, { query: { follow: 1, ...query, ...(cursor ? { after: cursor } : beginning) }, signal: controller.signal });
        attempt = 0;
        state.status.value = "live";
        const parser = new SseParser(), reader = /** @type {ReadableStream} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          for (const { id, event, data } of parser.push(value)) {
            if (event === "end") { state.status.value = "ended"; gone = true; }
            else if (data) { cursor = id; fresh.push(JSON.parse(data)); }
          }
          frame ||= requestAnimationFrame(flush);
        }
      } catch (error) {
        if (/** @type {any} */ (error).status >= 400 && /** @type {any} */ (error).status < 500) { state.error.value = error; gone = true; }
      }
      if (gone) return;
      state.status.value = "lost";
      timer = setTimeout(run, Math.min(5_000, 400 * 2 ** attempt++));
    };
    const seen = () => { if (document.hidden) controller.abort(); else { clearTimeout(timer); run(); } };
    document.addEventListener("visibilitychange", seen);
    run();
    return () => { gone = true; controller.abort(); clearTimeout(timer); cancelAnimationFrame(frame); document.removeEventListener("visibilitychange", seen); };
  }, [key]);
  return state;
}
