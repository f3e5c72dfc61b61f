// @ts-check
/** A task that stays up between prompts: its rounds, what each came to, and another prompt for it. */
import { get, post, v1 } from "../api.js";
import { html, useState } from "../lib.js";
import { ended } from "../reducer.js";
import { useResource } from "../resource.js";
import { Ago, Elapsed } from "../time.js";
import { Confirm, Empty, Loaded, Markdown, Problem, bytes, inline, sentence, toast } from "../ui/parts.js";
import { State } from "../ui/state.js";

const LENGTH_MAX = 20_000, PAGE = 200;
/** @type {Record<string, [string, string]>} */
const LIVE = {
  STARTING: ["QUEUED", "No round has begun yet; it takes prompts in their order."], RUNNING_ROUND: ["RUNNING", "It works on a round; further prompts wait their turn."],
  AWAITING_INPUT: ["WAITING", "It is up, and waits for a prompt."], FINISHING: ["WAITING", "It gets no more prompts, and ends after its open rounds."],
};

/** All rounds, oldest first. @param {string} taskId @param {AbortSignal} signal */
async function readAll(taskId, signal) {
  const rounds = [];
  let cursor, page;
  do {
    page = await get(v1("tasks", taskId, "rounds"), { limit: PAGE, cursor }, signal);
    rounds.push(...page.rounds);
    cursor = page.nextCursor;
  } while (cursor);
  return { rounds, liveState: page.liveState };
}

/** @param {{task: any}} props */
export function Rounds({ task }) {
  const found = useResource(`rounds ${task.taskId}`, (signal) => readAll(task.taskId, signal), { on: (e) => e.taskId === task.taskId && /^(round|task|attempt)\./.test(e.type), everyMs: 300 });
  return html`<${Loaded} from=${found}>${(/** @type {any} */ { rounds, liveState }) => html`
    ${!ended(task) && liveState && html`<${Prompt} task=${task} live=${liveState} onSent=${found.reload} />`}
    ${rounds.length ? html`<ol class="rounds">${[...rounds].reverse().map((round) => html`<${Round} key=${round.roundId} round=${round} task=${task} />`)}</ol>`
      : html`<${Empty} title="No rounds yet">A prompt of the task that made this one, or of a person, begins a round. What it comes to is here.<//>`}`}<//>`;
}

/** @param {{round: any, task: any}} props */
function Round({ round, task }) {
  const state = round.state === "PROMPTED" && round.deliveredAt ? "RUNNING" : round.state, outputs = Object.entries(round.outputSizes ?? {});
  return html`<li class="card round"><div class="card-head"><strong>${round.roundKey}</strong><${State} state=${state} /><span class="muted">${round.endedAt ? html`after <${Elapsed} from=${round.deliveredAt ?? round.createdAt} to=${round.endedAt} />` : round.deliveredAt ? html`for <${Elapsed} from=${round.deliveredAt} />` : null}</span><span class="spring" /><span class="muted"><${Ago} at=${round.createdAt} /></span></div>
    <div class="card-body"><details open=${!round.endedAt}><summary class="muted">Prompt</summary><${Markdown} text=${round.prompt} />${round.payload != null && html`<pre class="code-block" tabindex="0">${JSON.stringify(round.payload, null, 2)}</pre>`}</details>
      ${round.error && html`<p class="bad-text">${inline(sentence(round.error.message))}</p>`}
      ${round.text && html`<${Markdown} text=${round.text} />`}
      ${outputs.length > 0 && html`<ul class="criteria">${outputs.map(([key, output]) => html`<li key=${key}><strong>${key}</strong><span class="muted">${/** @type {any} */ (output).kind}, ${bytes(/** @type {any} */ (output).sizeBytes)}</span><a href=${v1("tasks", task.taskId, "rounds", round.roundKey, "outputs", key, "fetch")} download=${`${round.roundKey}-${key}`}>Download<span class="sr"> ${key} of ${round.roundKey}</span></a></li>`)}</ul>`}</div></li>`;
}

/** @param {{task: any, live: string, onSent: () => void}} props */
function Prompt({ task, live, onSent }) {
  const [text, setText] = useState(""), [error, setError] = useState(/** @type {any} */ (null)), [busy, setBusy] = useState(false);
  const finishing = live === "FINISHING", [state, words] = LIVE[live] ?? ["CREATED", live];
  const send = async () => {
    if (!text.trim() || busy || finishing) return;
    setBusy(true);
    setError(null);
    try { await post(v1("tasks", task.taskId, "rounds"), { prompt: text.trim() }); setText(""); onSent(); } catch (e) { setError(e); }
    setBusy(false);
  };
  return html`<form class="composer card" onSubmit=${(/** @type {Event} */ e) => { e.preventDefault(); send(); }}>
    ${error && html`<${Problem} error=${error} />`}
    <label class="sr" for="prompt-round">Prompt of another round</label>
    <textarea id="prompt-round" rows="3" maxlength=${LENGTH_MAX} disabled=${finishing} placeholder=${finishing ? "It gets no more prompts." : "What should it do next?"} value=${text} onInput=${(/** @type {any} */ e) => setText(e.target.value)} onKeyDown=${(/** @type {KeyboardEvent} */ e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); send(); } }} />
    <div class="composer-foot"><${State} state=${state} text=${words} /><span class="spring" />
      ${!finishing && html`<${Confirm} type="button" label="Finish" title="No more prompts?" confirm="Let it finish" run=${async () => { await post(v1("tasks", task.taskId, "rounds", "finish")); onSent(); toast("It ends after its open rounds"); }}><p>It works off the rounds that are open, gets no further one, and ends.</p><//>
        <button class="primary" disabled=${busy || !text.trim()}>Prompt <kbd aria-hidden="true">Ctrl ⏎</kbd></button>`}</div>
  </form>`;
}
