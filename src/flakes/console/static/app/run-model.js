// @ts-check
/**
 * One run on screen: read once, then moved by events. What happened between reading and hearing is applied
 * after reading; an event that is older than what was read changes nothing (see `reducer`).
 */
import { get, v1 } from "./api.js";
import { batch, computed, signal, useEffect, useMemo } from "./lib.js";
import { streaming, subscribe } from "./live.js";
import { attemptsAfter, countsAfter, countsOf, tasksAfter } from "./reducer.js";

/** What fits on a screen comes first; the rest once that is painted. */
const FIRST_PAGE = 100, PAGE = 10_000;
/** In a large run attempts are gathered for so long: pictures of them are not drawn more often. */
const ATTEMPTS_MANY = 1_000, GATHER_MS = 400;
const OVER = new Set(["SUCCEEDED", "FAILED", "CANCELLED"]);

export class RunModel {
  /** @param {string} reference @param {boolean} [drawn] whether a map of it is shown first */
  constructor(reference, drawn = false) {
    this.reference = reference;
    /** Where the map of it is being read from. @type {Promise<any> | null} */
    this.layout = null;
    this.drawn = drawn;
    this.run = signal(/** @type {any} */ (null));
    this.tasks = signal(/** @type {any[]} */ ([]));
    /** All tasks are here. */
    this.whole = signal(false);
    this.attempts = signal(/** @type {Map<string, any> | null} */ (null));
    this.error = signal(/** @type {any} */ (null));
    this.deleted = signal(false);
    /** Counts the times that tasks were added: what is made from the graph alone changes with it. */
    this.growth = signal(0);
    this.counts = signal(/** @type {Record<string, number>} */ ({}));
    /** Tasks by status, as far as is known: counted here once all of them are. */
    this.known = computed(() => (this.whole.value ? this.counts.value : this.run.value?.taskCounts ?? {}));
    this.total = computed(() => Object.values(this.known.value).reduce((sum, n) => sum + n, 0));
    this.failed = computed(() => (this.known.value.FAILED ?? 0) + (this.known.value.CANCELLED ?? 0));
    this.live = computed(() => this.total.value - this.failed.value - (this.known.value.SUCCEEDED ?? 0));
    /** Whether something of it runs, and whether something waits to. */
    this.busy = computed(() => (this.known.value.RUNNING ?? 0) > 0);
    this.waits = computed(() => (this.known.value.QUEUED ?? 0) + (this.known.value.BLOCKED ?? 0) + (this.known.value.WAITING ?? 0) > 0);
    /** Places of tasks by id and by key. @type {Map<string, number>} */
    this.index = new Map();
    /** @type {Map<string, number>} */
    this.keyIndex = new Map();
    /** Tasks by key, as they are now. */
    this.byKey = computed(() => { const tasks = this.tasks.value; return { get: (/** @type {string} */ key) => tasks[this.keyIndex.get(key) ?? -1] }; });
    /** @type {import("./live.js").Event[] | null} */
    this.early = [];
    this.closed = false;
    this.timers = { run: 0, tasks: 0, attempts: 0 };
    /** @type {import("./live.js").Event[]} */
    this.attemptEvents = [];
    this.wantsAttempts = false;
  }

  open() {
    const leave = subscribe((events) => this.hear(events), () => this.load());
    this.load();
    return () => { this.closed = true; leave(); for (const timer of Object.values(this.timers)) clearTimeout(timer); };
  }

  async load() {
    try {
      await streaming();
      this.early = this.early ?? [];
      const before = this.run.value && this.tasks.value.length;
      if (this.drawn && before === null) (this.layout = get(v1("runs", this.reference, "layout"))).catch(() => {});
      const [run, page] = await Promise.all([get(v1("runs", this.reference)), get(v1("runs", this.reference, "tasks"), { limit: before ? PAGE : FIRST_PAGE })]);
      if (this.closed) return;
      batch(() => {
        this.error.value = null;
        this.take(page.tasks, true);
        this.whole.value = !page.nextCursor;
        this.run.value = run;
      });
      if (page.nextCursor) {
        if (this.layout) await Promise.race([this.layout.catch(() => {}), wait(1_000)]).then(painted);
        await this.rest(page.nextCursor);
      }
      this.whole.value = true;
      if (before !== null && before !== this.tasks.value.length) this.growth.value++;
      const early = this.early ?? [];
      this.early = null;
      this.hear(early);
      if (this.wantsAttempts) await this.loadAttempts();
    } catch (error) {
      if (!this.closed) this.error.value = error;
    }
  }

  /** @param {any[]} tasks @param {boolean} anew */
  take(tasks, anew) {
    const all = anew ? tasks : [...this.tasks.value, ...tasks];
    this.index = new Map(all.map((task, i) => [task.taskId, i]));
    this.keyIndex = new Map(all.map((task, i) => [task.taskKey, i]));
    batch(() => { this.tasks.value = all; this.counts.value = countsOf(all); });
  }

  /** @param {string | null} cursor */
  async rest(cursor) {
    const found = [];
    while (cursor && !this.closed) {
      const page = await get(v1("runs", this.reference, "tasks"), { limit: PAGE, cursor });
      found.push(...page.tasks);
      cursor = page.nextCursor;
    }
    const fresh = found.filter((task) => !this.index.has(task.taskId));
    if (fresh.length && !this.closed) this.take(fresh, false);
    return fresh.length;
  }

  /** Read the attempts of all tasks; from then on events keep them. */
  async loadAttempts() {
    this.wantsAttempts = true;
    try {
      const found = new Map(this.attempts.value ?? []);
      let cursor = null;
      do {
        const page = await get(v1("runs", this.reference, "attempts"), { limit: PAGE, cursor });
        for (const attempt of page.attempts) found.set(attempt.assignmentId, attempt);
        cursor = page.nextCursor;
      } while (cursor && !this.closed);
      if (!this.closed) this.attempts.value = found;
    } catch (error) {
      if (!this.closed) this.error.value = error;
    }
  }

  /** @param {import("./live.js").Event[]} events */
  hear(events) {
    const runId = this.run.value?.runId;
    if (!runId || this.early) { this.early?.push(...events); return; }
    const mine = events.filter((event) => event.runId === runId);
    if (!mine.length) return;
    const { tasks, unknown } = tasksAfter(this.tasks.value, this.index, mine);
    if (tasks !== this.tasks.value) batch(() => { this.counts.value = countsAfter(this.counts.value, this.tasks.value, tasks); this.tasks.value = tasks; });
    if (unknown && !this.timers.tasks) this.timers.tasks = setTimeout(() => this.grow(), 300);
    if (this.attempts.value) {
      this.attemptEvents.push(...mine);
      if (this.attempts.value.size < ATTEMPTS_MANY) this.hearAttempts();
      else if (!this.timers.attempts) this.timers.attempts = setTimeout(() => this.hearAttempts(), GATHER_MS);
    }
    const own = mine.filter((event) => event.type.startsWith("run."));
    if (!own.length) return;
    if (own.some((event) => event.type === "run.deleted")) { this.deleted.value = true; return; }
    // A busy run may go to and fro between two states many times a second: that is told by the events themselves.
    const state = own.findLast((event) => event.type === "run.state")?.data.state;
    const passing = own.every((event) => event.type === "run.state") && !OVER.has(state) && !OVER.has(this.run.value.state);
    if (state && state !== this.run.value.state) this.run.value = { ...this.run.value, state };
    if (!this.timers.run) this.timers.run = setTimeout(() => this.reread(), passing ? 1_000 : 150);
  }

  hearAttempts() {
    this.timers.attempts = 0;
    const events = this.attemptEvents;
    this.attemptEvents = [];
    if (!this.attempts.value || this.closed) return;
    const attempts = attemptsAfter(this.attempts.value, events);
    if (attempts !== this.attempts.value) this.attempts.value = attempts;
  }

  async grow() {
    this.timers.tasks = 0;
    const last = this.tasks.value.at(-1)?.taskId ?? "";
    try { if (await this.rest(last || null)) this.growth.value++; } catch { /* the next event tries again */ }
  }

  async reread() {
    this.timers.run = 0;
    try {
      const run = await get(v1("runs", this.reference));
      if (!this.closed) this.run.value = run;
    } catch (error) {
      if (/** @type {any} */ (error).status === 404) this.deleted.value = true;
    }
  }
}

/** @param {number} ms */
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
/** Once what is there now is on screen, or after a moment where nobody looks. */
const painted = () => Promise.race([wait(200), new Promise((done) => requestAnimationFrame(() => setTimeout(done)))]);

/** The model of a run for as long as a page shows it. @param {string} reference @param {boolean} [drawn] whether its map is what is shown first */
export function useRun(reference, drawn) {
  const model = useMemo(() => new RunModel(reference, drawn), [reference]);
  useEffect(() => model.open(), [model]);
  return model;
}
