// @ts-check
/**
 * One run on screen: read once, then moved by events. What happened between reading and hearing is applied
 * after reading; an event that is older than what was read changes nothing (see `reducer`).
 */
import { get, v1 } from "./api.js";
import { batch, computed, signal, useEffect, useMemo } from "./lib.js";
import { streaming, subscribe } from "./live.js";
import { attemptsAfter, countsAfter, countsOf, tasksAfter } from "./reducer.js";

const FIRST_PAGE = 1_000, PAGE = 10_000;

export class RunModel {
  /** @param {string} reference */
  constructor(reference) {
    this.reference = reference;
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
    /** Places of tasks by id and by key. @type {Map<string, number>} */
    this.index = new Map();
    /** @type {Map<string, number>} */
    this.keyIndex = new Map();
    /** Tasks by key, as they are now. */
    this.byKey = computed(() => { const tasks = this.tasks.value; return { get: (/** @type {string} */ key) => tasks[this.keyIndex.get(key) ?? -1] }; });
    /** @type {import("./live.js").Event[] | null} */
    this.early = [];
    this.closed = false;
    this.timers = { run: 0, tasks: 0 };
    this.wantsAttempts = false;
  }

  open() {
    const leave = subscribe((events) => this.hear(events), () => this.load());
    this.load();
    return () => { this.closed = true; leave(); clearTimeout(this.timers.run); clearTimeout(this.timers.tasks); };
  }

  async load() {
    try {
      await streaming();
      this.early = this.early ?? [];
      const [run, page] = await Promise.all([get(v1("runs", this.reference)), get(v1("runs", this.reference, "tasks"), { limit: FIRST_PAGE })]);
      if (this.closed) return;
      this.run.value = run;
      this.error.value = null;
      this.take(page.tasks, true);
      this.whole.value = !page.nextCursor;
      if (page.nextCursor) await this.rest(page.nextCursor);
      this.whole.value = true;
      this.growth.value++;
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
      const attempts = attemptsAfter(this.attempts.value, mine);
      if (attempts !== this.attempts.value) this.attempts.value = attempts;
    }
    if (mine.some((event) => event.type === "run.deleted")) this.deleted.value = true;
    else if (mine.some((event) => event.type.startsWith("run.")) && !this.timers.run) this.timers.run = setTimeout(() => this.reread(), 150);
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

/** The model of a run for as long as a page shows it. @param {string} reference */
export function useRun(reference) {
  const model = useMemo(() => new RunModel(reference), [reference]);
  useEffect(() => model.open(), [model]);
  return model;
}
