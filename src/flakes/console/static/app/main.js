// @ts-check
/** The console: signs in, opens the stream, and shows the page of the address. */
import { me, post } from "./api.js";
import { html, render, useEffect } from "./lib.js";
import { connection, identify, start, stop } from "./live.js";
import { watch } from "./notify.js";
import { followLinks, match, navigate, place } from "./router.js";
import { listen } from "./ui/keys.js";
import { Shell } from "./ui/shell.js";
import { Empty, Header, Problem, toast } from "./ui/parts.js";
import { Account } from "./pages/account.js";
import { Docs } from "./pages/docs.js";
import { Hosts, Host } from "./pages/hosts.js";
import { Inbox } from "./pages/inbox.js";
import { NewRun } from "./pages/new-run.js";
import { Project, Projects } from "./pages/projects.js";
import { Run } from "./pages/run.js";
import { Runs } from "./pages/runs.js";
import { Sandboxes, Sandbox } from "./pages/sandboxes.js";
import { Entrance, ENTRANCES } from "./pages/sign-in.js";
import { Device } from "./pages/device.js";
import { Task } from "./pages/task.js";

/** @type {[string, any, boolean?][]} pattern, page, and whether anybody may see it */
const PAGES = [
  ["/", Runs], ["/runs", Runs], ["/runs/:run", Run], ["/runs/:run/tasks/:task", Task],
  ["/inbox", Inbox], ["/new", NewRun], ["/projects", Projects], ["/projects/:project", Project],
  ["/hosts", Hosts], ["/hosts/:host", Host], ["/sandboxes", Sandboxes], ["/sandboxes/:sandbox", Sandbox],
  ["/account", Account], ["/account/:tab", Account], ["/device", Device],
  ["/docs", Docs, true], ["/docs/:section/:page", Docs, true],
];

function Page() {
  const { path } = place.value;
  const signedIn = me.value;
  if (ENTRANCES.includes(path)) return html`<${Entrance} path=${path} />`;
  for (const [pattern, Component, open] of PAGES) {
    const params = match(pattern, path);
    if (!params) continue;
    if (!signedIn && !open) return html`<${Entrance} path="/sign-in" />`;
    // A key per thing: another run is another page, another tab of it is not.
    return html`<${Shell}><${Component} key=${pattern + JSON.stringify(params)} ...${params} /><//>`;
  }
  return html`<${Shell}><${Header} title="No such page" /><${Empty} title="Nothing is at this address"><a href="/console/runs">Go to the runs</a><//><//>`;
}

/** What `flakes up` prints ends in a code that signs this browser in, once. */
async function enter() {
  const code = /^#link=(.+)$/.exec(location.hash)?.[1];
  if (!code) return;
  history.replaceState(null, "", location.pathname + location.search);
  place.value = { ...place.value, hash: "" };
  try {
    await post("/v1/auth/browser-link", { code: decodeURIComponent(code) });
  } catch (error) {
    toast(`The link did not work: ${/** @type {any} */ (error).message}`, true);
  }
}

function App() {
  const signedIn = Boolean(me.value);
  useEffect(() => {
    if (!signedIn) return;
    if (place.value.path === "/sign-in") navigate("/runs", { replace: true });
    start(watch());
    return stop;
  }, [signedIn]);
  return html`<${Page} />`;
}

const root = /** @type {HTMLElement} */ (document.getElementById("app"));
followLinks();
listen();
try {
  await enter();
  await identify();
  root.textContent = "";
  render(html`<${App} />`, root);
} catch (error) {
  root.textContent = "";
  render(html`<div class="boot"><${Problem} error=${error} retry=${() => location.reload()} /></div>`, root);
}
export { connection };
