// @ts-check
/** What happened to a task, newest first: read once, then as events come. */
import { get, v1 } from "../api.js";
import { html, useEffect, useState } from "../lib.js";
import { streaming, subscribe } from "../live.js";
import { Ago } from "../time.js";
import { Empty, Problem } from "../ui/parts.js";
import { StateIcon } from "../ui/state.js";

/** A sign and a sentence. @type {Record<string, [string, (data: any) => string]>} */
const SENTENCES = {
  "task.saved": ["SAVED", () => "It was saved"],
  "task.admitted": ["QUEUED", (d) => (d.status === "BLOCKED" ? "It was admitted, and waits for other tasks" : "It was admitted")],
  "task.queued": ["QUEUED", (d) => ({ dependencies_done: "What it depends on is done: it is ready", wait_settled: "What it waited for has happened: it is ready", retry: "It will be tried again", retried: "Somebody asked for another try", lost: "Its sandbox was lost: it is ready again" })[/** @type {"retry"} */ (d.reason)] ?? `It is ready (${(d.reason ?? "again").replaceAll("_", " ")})`],
  "task.running": ["RUNNING", (d) => `Attempt ${d.attempt} was accepted by a sandbox`],
  "task.waiting": ["WAITING", () => "It yielded, and waits"],
  "task.spawned": ["CREATED", (d) => `It made ${d.count === 1 ? `the task ${d.taskKeys?.[0]}` : `${d.count} tasks`}${d.groupKey ? ` in the group ${d.groupKey}` : ""}`],
  "group.opened": ["CREATED", (d) => `It opened the group ${d.groupKey}`],
  "group.closed": ["CREATED", (d) => `The group ${d.groupKey} takes no more children; it has ${d.total}`],
  "group.settled": ["CREATED", (d) => `The group ${d.groupKey} is ${String(d.status).toLowerCase()}`],
  "wait.settled": ["SUCCEEDED", (d) => (d.state === "timed_out" ? "What it waited for did not happen in time" : "What it waited for has happened")],
  "signal.sent": ["delivered", (d) => `Somebody sent it the signal ${d.name}`],
  "task.cancel_requested": ["CANCELLED", (d) => `Somebody asked for it to stop${d.reason ? `: ${d.reason}` : ""}`],
  "task.succeeded": ["SUCCEEDED", (d) => (d.verified ? "It succeeded, verified" : "It succeeded")],
  "task.failed": ["FAILED", (d) => `It failed${d.error ? `: ${d.error.message}` : ""}`],
  "task.cancelled": ["CANCELLED", () => "It is cancelled; nothing of it runs"],
  "attempt.ended": ["STALLED", (d) => `An attempt ended: ${d.outcome ?? "lost"}${d.error ? `, ${d.error.message}` : ""}`],
  "attempt.refused": ["STALLED", (d) => `A message of a superseded attempt was refused (${d.what})`],
  "attempt.session": ["CREATED", (d) => (d.resumed ? "The agent went on with an earlier session" : "The agent began a session")],
  "message.queued": ["queued", (d) => `${{ steer: "Steer", interrupt: "Interrupt" }[/** @type {"steer"} */ (d.mode)] ?? "Follow up"}: “${d.excerpt}”`],
  "message.delivered": ["delivered", () => "The message reached the agent"],
  "message.consumed": ["consumed", () => "The agent took the message in"],
  "message.undeliverable": ["undeliverable", (d) => `The message was not delivered: ${d.reason}`],
  "permission.requested": ["pending", (d) => `It asks for permission: ${d.prompt}`],
  "permission.responded": ["approved", (d) => `The request was ${d.decision}${d.reason ? `: ${d.reason}` : ""}`],
  "permission.expired": ["expired", (d) => `Nobody answered: ${d.decision} by default`],
  "permission.cancelled": ["CANCELLED", () => "The request ended with its attempt"],
  "workpad.updated": ["SAVED", (d) => `Version ${d.version} of the workpad was saved by ${d.author?.kind === "assignment" ? "the task" : "a person"}`],
  "files.reserved": ["SAVED", (d) => `It reserved ${d.count === 1 ? d.selectors?.[0]?.path ?? "a path" : `${d.count} paths`}`],
  "files.released": ["SAVED", (d) => `It gave up ${d.count} ${d.count === 1 ? "reservation" : "reservations"}`],
  "workspace.created": ["CREATED", (d) => `Its files were stored${d.changes != null ? `, ${d.changes} changed` : ""}`],
  "workspace.promoted": ["SUCCEEDED", (d) => `The ref ${d.ref} was moved to version ${d.version}`],
  "artifact.created": ["QUEUED", (d) => `The artifact ${d.name ?? d.kind} was announced`],
  "artifact.ready": ["SUCCEEDED", (d) => `The artifact ${d.name ?? d.kind} is ready`],
  "artifact.deleted": ["CANCELLED", (d) => (d.reason === "abandoned" ? "An artifact was never finished, and is gone" : "An artifact was deleted")],
};

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
  return html`<ol class="activity">${[...events].reverse().slice(0, 1_000).map((event) => { const [state, say] = SENTENCES[event.type] ?? ["CREATED", () => event.type.replace(/[._]/g, " ")]; return html`<li key=${event.cursor}><${StateIcon} state=${state} /><span>${say(event.data ?? {})}</span><span class="muted"><${Ago} at=${event.at} /></span></li>`; })}</ol>`;
}
