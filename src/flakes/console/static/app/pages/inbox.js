// @ts-check
/** Everything that waits for a person: questions of tasks, and runs that cannot go on by themselves. */
import { get } from "../api.js";
import { Link, to } from "../router.js";
import { html } from "../lib.js";
import { wanted, toggle } from "../notify.js";
import { useResource } from "../resource.js";
import { Ago } from "../time.js";
import { Empty, Header, Loaded } from "../ui/parts.js";
import { State, StateIcon } from "../ui/state.js";
import { Question } from "./task-talk.js";

export function Inbox() {
  const pending = useResource("inbox", (signal) => get("/v1/permissions", { status: "pending", limit: 100 }, signal), { on: (e) => e.type.startsWith("permission."), everyMs: 200 });
  const answered = useResource("answered", (signal) => get("/v1/permissions", { limit: 30 }, signal), { on: (e) => e.type.startsWith("permission."), everyMs: 400 });
  const stalled = useResource("stalled", (signal) => get("/v1/runs", { state: "STALLED", limit: 50 }, signal), { on: (e) => e.type.startsWith("run."), everyMs: 500 });
  const old = (answered.data?.permissions ?? []).filter((/** @type {any} */ p) => p.status !== "pending");
  return html`<${Header} title="Inbox" actions=${"Notification" in globalThis && html`<button aria-pressed=${wanted.value ? "true" : "false"} onClick=${toggle}>${wanted.value ? "Notifications are on" : "Notify me"}</button>`} />
    <${Loaded} from=${pending}>${(/** @type {any} */ { permissions }) => permissions.length
      ? permissions.map((/** @type {any} */ p) => html`<${Question} key=${p.permissionRequestId} permission=${p} where onAnswered=${pending.reload} />`)
      : !(stalled.data?.runs.length) && html`<${Empty} title="Nothing waits for you">Tasks that ask for permission and runs that cannot go on appear here.<//>`}<//>
    ${stalled.data?.runs.length > 0 && html`<section class="section"><h2>Runs that cannot go on</h2><div class="list card">${stalled.data.runs.map((/** @type {any} */ run) => html`<div key=${run.runId} class="list-row"><${StateIcon} state="STALLED" label /><${Link} class="cover" data-row to=${to("runs", run.runKey)}>${run.name}<//><span class="spring" /><span class="muted"><${Ago} at=${run.updatedAt} /></span></div>`)}</div></section>`}
    ${old.length > 0 && html`<section class="section"><h2>Answered lately</h2><div class="list card">${old.map((/** @type {any} */ p) => html`<div key=${p.permissionRequestId} class="list-row"><${State} state=${p.status} /><${Link} class="cover ellipsis" data-row to=${to("runs", p.runKey, "tasks", p.taskKey)}>${p.prompt}<//><span class="spring" />${p.reason && html`<span class="muted ellipsis">${p.reason}</span>`}<span class="muted"><${Ago} at=${p.endedAt} /></span></div>`)}</div></section>`}`;
}
