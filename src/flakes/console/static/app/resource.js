// @ts-check
/** What a page reads: loaded when it opens, read again when an event says so, and never on a timer. */
import { streaming, subscribe } from "./live.js";
import { useEffect, useRef, useState } from "./lib.js";

/**
 * @template T
 * @param {string | null} key what is read; another key starts anew, null reads nothing
 * @param {(signal: AbortSignal) => Promise<T>} load
 * @param {{on?: (event: import("./live.js").Event) => boolean, everyMs?: number}} [options]
 *   `on` says which events make it stale; it is read again at most once every `everyMs`
 * @returns {{data: T | undefined, error: any, loading: boolean, reload: () => void, set: (data: T) => void}}
 */
export function useResource(key, load, { on, everyMs = 400 } = {}) {
  const [state, setState] = useState({ key, data: undefined, error: null, loading: true });
  const latest = useRef({ load, on, run: () => {}, timer: 0, at: 0 });
  latest.current.load = load;
  latest.current.on = on;

  useEffect(() => {
    if (key === null) return;
    const own = latest.current;
    let controller = new AbortController(), gone = false;
    own.run = async () => {
      controller.abort();
      controller = new AbortController();
      const { signal } = controller;
      own.at = performance.now();
      setState((s) => (s.key === key ? { ...s, loading: true } : { key, data: undefined, error: null, loading: true }));
      try {
        await streaming();
        const data = await own.load(signal);
        if (!gone && !signal.aborted) setState({ key, data, error: null, loading: false });
      } catch (error) {
        if (!gone && !signal.aborted) setState((s) => ({ ...s, key, error, loading: false }));
      }
    };
    const soon = () => {
      if (own.timer) return;
      own.timer = setTimeout(() => { own.timer = 0; own.run(); }, Math.max(0, own.at + everyMs - performance.now()));
    };
    own.run();
    const leave = subscribe((events) => { if (own.on && events.some(own.on)) soon(); }, soon);
    return () => { gone = true; controller.abort(); leave(); clearTimeout(own.timer); own.timer = 0; };
  }, [key]);

  const current = state.key === key ? state : { data: undefined, error: null, loading: true };
  return { ...current, reload: () => latest.current.run(), set: (data) => setState({ key, data, error: null, loading: false }) };
}

/** Hear of events while a component is there. @param {(events: import("./live.js").Event[]) => void} onEvents @param {() => void} [onResync] */
export function useEvents(onEvents, onResync) {
  const latest = useRef({ onEvents, onResync });
  latest.current = { onEvents, onResync };
  useEffect(() => subscribe((events) => latest.current.onEvents(events), () => latest.current.onResync?.()), []);
}
