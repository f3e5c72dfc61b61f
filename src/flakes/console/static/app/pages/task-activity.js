// @ts-check
/** What happened to a task, newest first: read once, then as events come. */
import { get, v1 } from "../api.js";
import { html, useEffect, useState } from "../lib.js";
import { streaming, subscribe } from "../live.js";
import { Ago, duration } from "../time.js";
import { Empty, Problem } from "../ui/parts.js";
import { StateIcon } from "../ui/state.js";

/** A sign, or which one, and a sentence. @type {Record<string, [string | ((data: any) => string), (data: any) => string]>} */
export const SENTENCES = {
  "task.saved": ["SAVED", () => "It was saved"],
  "task.admitted": ["QUEUED", (d) => (d.status === "BLOCKED" ? "It was admitted, and waits for other tasks" : "It was admitted")],
  "task.queued": ["QUEUED", (d) => ({ dependencies_done: "What it depends on is done: it is ready", wait_settled: "What it waited for has happened: it is ready", retry: "It will be tried again", retried: "Somebody asked for another try", lost: "Its sandbox was lost: it is ready again", not_taken: "Its sandbox did not take the offer: it is ready again" })[/** @type {"retry"} */ (d.reason)] ?? `It is ready (${(d.reason ?? "again").replaceAll("_", " ")})`],
  "task.running": ["RUNNING", (d) => `Attempt ${d.attempt} was accepted by a sandbox`],
  "task.waiting": ["WAITING", () => "It yielded, and waits"],
  "task.spawned": ["CREATED", (d) => `It made ${d.count === 1 ? `the task ${d.taskKeys?.[0]}` : `${d.count} tasks`}${d.groupKey ? ` in the group ${d.groupKey}` : ""}`],
  "group.opened": ["CREATED", (d) => `It opened the group ${d.groupKey}`],
  "group.closed": ["CREATED", (d) => `The group ${d.groupKey} takes no more children; it has ${d.total}`],
  "group.settled": ["CREATED", (d) => `The group ${d.groupKey} is ${String(d.status).toLowerCase()}`],
  "wait.settled": [(d) => (d.state === "timed_out" ? "STALLED" : "SUCCEEDED"), (d) => (d.state === "timed_out" ? "What it waited for did not happen in time" : "What it waited for has happened")],
  "round.prompted": ["queued", (d) => `It was sent a prompt, the round ${d.roundKey}`],
  "round.delivered": ["delivered", (d) => `It took the prompt of the round ${d.roundKey}`],
  "round.ended": ["consumed", (d) => `The round ${d.roundKey} is ${String(d.state).toLowerCase()}`],
  "round.finishing": ["WAITING", () => "It gets no more prompts, and ends after its open rounds"],
  "budget.extended": ["approved", (d) => `${{ run: "The run", tree: "The task and what it made", task: "The task" }[/** @type {"run"} */ (d.scope)] ?? "It"} may spend up to ${amount(d.budget, d.limit)}`],
  "signal.sent": ["delivered", (d) => `Somebody sent it the signal ${d.name}`],
  "task.cancel_requested": ["CANCELLED", (d) => `Somebody asked for it to stop${d.reason ? `: ${d.reason}` : ""}`],
  "task.succeeded": ["SUCCEEDED", (d) => `It succeeded${d.verified ? ", verified" : ""}${d.warnings?.length ? `, with ${d.warnings.length === 1 ? "a warning" : `${d.warnings.length} warnings`}` : ""}`],
  "task.failed": ["FAILED", (d) => `It failed${d.error ? `: ${d.error.message}` : ""}`],
  "task.cancelled": ["CANCELLED", () => "It is cancelled; nothing of it runs"],
  "attempt.ended": [(d) => (d.outcome === "yielded" ? "WAITING" : "STALLED"), (d) => (d.outcome === "yielded" ? "It gave its slot back, to wait" : `An attempt ended: ${d.outcome ?? "lost"}${d.error ? `, ${d.error.message}` : ""}`)],
  "attempt.refused": ["STALLED", (d) => `A message of a superseded attempt was refused (${d.what})`],
  "attempt.session": ["CREATED", (d) => (d.resumed ? "The agent went on with an earlier session" : "The agent began a session")],
  "message.queued": ["queued", (d) => `${{ steer: "Steer", interrupt: "Interrupt" }[/** @type {"steer"} */ (d.mode)] ?? "Follow up"}: “${d.excerpt}”`],
  "message.delivered": ["delivered", () => "The message reached the agent"],
  "message.consumed": ["consumed", () => "The agent took the message in"],
  "message.undeliverable": ["undeliverable", (d) => `The message was not delivered: ${d.reason}`],
  "permission.requested": ["pending", (d) => `It asks for permission: ${d.prompt}`],
  "permission.responded": [(d) => d.decision ?? "approved", (d) => `The request was ${d.decision}${d.reason ? `: ${d.reason}` : ""}`],
  "permission.expired": ["expired", (d) => `Nobody answered: ${d.decision} by default`],
  "permission.cancelled": ["CANCELLED", () => "The request ended with its attempt"],
  "workpad.updated": ["SAVED", (d) => `Version ${d.version} of the workpad was saved by ${d.author?.kind === "assignment" ? "the task" : "a person"}`],
  "files.reserved": ["SAVED", (d) => `It reserved ${d.count === 1 ? d.selectors?.[0]?.path ?? "a path" : `${d.count} paths`}`],
  "files.released": ["SAVED", (d) => `It gave up ${d.count} ${d.count === 1 ? "reservation" : "reservations"}`],
  "workspace.overlap": ["WAITING", (d) => `It changes files that ${d.otherTaskKey} ${d.how === "reserved" ? "has reserved" : "changes too"}: ${d.paths?.slice(0, 3).join(", ")}${d.count > 3 ? ` and ${d.count - 3} more` : ""}`],
  "workspace.created": ["CREATED", (d) => `Its files were stored${d.changes != null ? `, ${d.changes} changed` : ""}`],
  "workspace.promoted": ["SUCCEEDED", (d) => `The ref ${d.ref} was moved to version ${d.version}`],
  "workspace.candidate_conflict": ["conflict", (d) => `Its changes do not merge with what is selected: ${(d.paths ?? []).slice(0, 3).join(", ")}${d.count > 3 ? ` and ${d.count - 3} more` : ""}${d.resolverTaskId ? "; a task resolves that" : ""}`],
  "workspace.not_promoted": ["unverified", (d) => `Its changes were not brought in${d.reason ? `: ${d.reason}` : ""}`],
  "artifact.created": ["QUEUED", (d) => `The artifact ${d.name ?? d.kind} was announced`],
  "artifact.ready": ["SUCCEEDED", (d) => `The artifact ${d.name ?? d.kind} is ready`],
  "artifact.deleted": ["CANCELLED", (d) => (d.reason === "abandoned" ? "An artifact was never finished, and is gone" : "An artifact was deleted")],
};

/** An amount of a budget's bound in words. @param {string} bound @param {number} n */
export function amount(bound, n) {
  if (bound === "costMicroUsd") return `$${(n / 1e6).toFixed(2)}`;
  return bound === "wallMs" ? duration(n) : `${n.toLocaleString("en")} tokens`;
}

/** @param {{task: any}} props */
export function Activity({ task }) {
  const [events, setEvents] = useState(/** @type {any[] | null} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  useEffect(() => {
    let gone = false;
    const add = (/** @type {any[]} */ fresh) => setEvents((known) => {
      const seen = new Set((known ?? []).map((e) => e.cursor));
      return [...(known ?? []), ...fresh.filter((e) => !seen.has(e.cursor))];
    });
    const read = async () => {
      try {
        await streaming();
        let after = "";
        do {
          const page = await get(v1("tasks", task.taskId, "activity"), { after, limit: 500 });
          if (gone) return;
          add(page.events);
          after = page.events.length === 500 ? page.nextCursor : "";
        } while (after);
      } catch (e) { if (!gone) setError(e); }
    };
    const leave = subscribe((fresh) => { const mine = fresh.filter((e) => e.taskId === task.taskId); if (mine.length) add(mine); }, read);
    read();
    return () => { gone = true; leave(); };
  }, [task.taskId]);
  if (error) return html`<${Problem} error=${error} />`;
  if (!events) return html`<div class="loading" role="status" aria-label="Loading"><i /><i /><i /></div>`;
  if (!events.length) return html`<${Empty} title="Nothing has happened yet" />`;
  return html`<ol class="activity">${[...events].reverse().slice(0, 1_000).map((event) => { const [state, say] = SENTENCES[event.type] ?? ["CREATED", () => event.type.replace(/[._]/g, " ")]; return html`<li key=${event.cursor}><${StateIcon} state=${typeof state === "string" ? state : state(event.data ?? {})} /><span>${say(event.data ?? {})}</span><span class="muted"><${Ago} at=${event.at} /></span></li>`; })}</ol>`;
}
