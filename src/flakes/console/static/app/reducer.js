// @ts-check
/**
 * What events do to the rows on screen. Pure: rows and an event in, a changed copy out, or the same row when
 * the event is older than what the row already shows.
 */

/** @typedef {import("./live.js").Event} Event */

/** The last change that a row knows of, in ms. @param {any} task */
function knownAt(task) {
  let latest = 0;
  for (const at of [task.queuedAt, task.startedAt, task.finishedAt]) if (at) latest = Math.max(latest, Date.parse(at));
  return latest;
}

/** One task after one event. @param {any} task @param {Event} event */
export function taskAfter(task, event) {
  const at = event.at, data = event.data ?? {};
  if (event.type === "workpad.updated") {
    const version = Math.max(data.version ?? 0, task.workpad?.version ?? 0);
    return { ...task, workpad: { version, updatedAt: at } };
  }
  if (event.type === "task.cancel_requested") return ended(task) ? task : { ...task, cancelRequested: true };
  if (Date.parse(at) < knownAt(task)) return task;
  switch (event.type) {
    case "task.admitted":
      return { ...task, status: data.status ?? task.status, admittedAt: at, queuedAt: data.status === "QUEUED" ? at : task.queuedAt };
    case "task.queued":
      return { ...task, status: data.status ?? "QUEUED", queuedAt: at, nextAttemptAt: data.nextAttemptAt, finishedAt: undefined, sandboxId: undefined, error: undefined };
    case "task.blocked":
      return { ...task, status: "BLOCKED", finishedAt: undefined, error: undefined };
    case "task.running":
      return { ...task, status: "RUNNING", startedAt: at, finishedAt: undefined, sandboxId: data.sandboxId, attempt: data.attempt ?? task.attempt, nextAttemptAt: undefined, error: undefined };
    case "task.waiting":
      return { ...task, status: "WAITING" };
    case "task.succeeded":
      return { ...task, status: "SUCCEEDED", finishedAt: at, error: undefined, nextAttemptAt: undefined };
    case "task.failed":
      return { ...task, status: "FAILED", finishedAt: at, error: data.error, nextAttemptAt: undefined };
    case "task.cancelled":
      return { ...task, status: "CANCELLED", finishedAt: at, error: data.error ?? task.error, nextAttemptAt: undefined };
    default:
      return task;
  }
}

/** Whether a task has ended. @param {{status: string}} task */
export const ended = (task) => task.status === "SUCCEEDED" || task.status === "FAILED" || task.status === "CANCELLED";

/**
 * All tasks of a run after some events, and whether there are tasks that it does not know.
 * @param {any[]} tasks @param {Map<string, number>} index of task ids @param {Event[]} events
 */
export function tasksAfter(tasks, index, events) {
  let next = tasks, unknown = false;
  for (const event of events) {
    if (!event.taskId) continue;
    const place = index.get(event.taskId);
    if (place === undefined) {
      if (event.type === "task.saved" || event.type === "task.admitted") unknown = true;
      continue;
    }
    const changed = taskAfter(next[place], event);
    if (changed === next[place]) continue;
    if (next === tasks) next = tasks.slice();
    next[place] = changed;
  }
  return { tasks: next, unknown };
}

/** @param {any} attempt @param {string} at @param {string} state @param {string} [reason] */
const endedAttempt = (attempt, at, state, reason) => ({ ...attempt, state, endedAt: at, reason });

/** All attempts of a run after some events. @param {Map<string, any>} attempts by assignment id @param {Event[]} events */
export function attemptsAfter(attempts, events) {
  let next = attempts;
  const change = (/** @type {string} */ id, /** @type {any} */ value) => {
    if (next === attempts) next = new Map(attempts);
    next.set(id, value);
  };
  for (const { type, at, taskId, data } of events) {
    const id = data?.assignmentId;
    if (!id) continue;
    const known = next.get(id);
    if (type === "task.running") {
      change(id, { offeredAt: at, ...known, assignmentId: id, taskId, attempt: data.attempt, sandboxId: data.sandboxId, state: "accepted", acceptedAt: known?.acceptedAt ?? at });
    } else if (known && !known.endedAt) {
      if (type === "task.succeeded") change(id, endedAttempt(known, at, "succeeded"));
      else if (type === "task.failed") change(id, endedAttempt(known, at, "failed", data.error?.message));
      else if (type === "task.cancelled") change(id, endedAttempt(known, at, "cancelled"));
      else if (type === "attempt.ended") change(id, endedAttempt(known, at, data.outcome ?? "failed", data.error?.message));
    }
  }
  return next;
}

/** Tasks by status. @param {any[]} tasks */
export function countsOf(tasks) {
  /** @type {Record<string, number>} */
  const counts = {};
  for (const task of tasks) counts[task.status] = (counts[task.status] ?? 0) + 1;
  return counts;
}

/** The same after some of the tasks have changed. @param {Record<string, number>} counts @param {any[]} before @param {any[]} after of equal length */
export function countsAfter(counts, before, after) {
  const next = { ...counts };
  for (let i = 0; i < after.length; i++) {
    if (before[i] === after[i] || before[i].status === after[i].status) continue;
    next[before[i].status]--;
    next[after[i].status] = (next[after[i].status] ?? 0) + 1;
  }
  return next;
}

/** Moments that are looked at again and again. @type {Map<string, number>} */
const moments = new Map();
/** A moment in ms. @param {string} at */
export function ms(at) {
  let known = moments.get(at);
  if (known === undefined) {
    if (moments.size > 60_000) moments.clear();
    moments.set(at, (known = Date.parse(at)));
  }
  return known;
}
