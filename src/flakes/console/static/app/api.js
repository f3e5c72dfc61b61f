// @ts-check
/** Calls of the public API, as whoever is signed in here: the cookie says who, a header says that it is this page. */
import { signal } from "./lib.js";

/** A refusal: `code`, a sentence in `message`, what to do in `fix`, and the rest of the body. */
export class ApiError extends Error {
  /** @param {number} status @param {any} body */
  constructor(status, body) {
    super(body?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = body?.error ?? "internal_error";
    this.fix = body?.fix ?? "";
    this.body = body ?? {};
  }
}

/** Who is signed in; null is nobody, undefined is not known yet. @type {{value: any}} */
export const me = signal(undefined);

const MUTATIONS = new Set(["POST", "PUT", "PATCH", "DELETE"]);

/**
 * One request; the decoded answer, or an ApiError.
 * @param {string} method @param {string} path
 * @param {{query?: Record<string, any>, body?: any, signal?: AbortSignal, text?: boolean}} [options]
 */
export async function call(method, path, options = {}) {
  const response = await send(method, path, options);
  if (response.status === 204) return null;
  return options.text ? response.text() : response.json();
}

/** The response itself, once it is known to be a success. @param {string} method @param {string} path @param {any} [options] */
export async function send(method, path, { query, body, signal, headers } = {}) {
  /** @type {Record<string, string>} */
  const sent = { ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  if (MUTATIONS.has(method)) {
    sent["Idempotency-Key"] = unique();
    sent["X-Flakes-CSRF"] = cookie(`flakes_csrf_${location.port}`) || cookie("flakes_csrf");
  }
  const url = query ? withQuery(path, query) : path;
  let response;
  try {
    response = await fetch(url, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body), signal, credentials: "same-origin" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, { error: "server_unreachable", message: "the server does not answer", fix: "this page goes on by itself when it does" });
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  if (response.status === 401 && !path.startsWith("/v1/auth/")) me.value = null;
  throw new ApiError(response.status, answer);
}

/** @param {string} path @param {Record<string, any>} query */
export function withQuery(path, query) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given.map(([k, v]) => [k, String(v)]))}` : path;
}

export const get = (/** @type {string} */ path, /** @type {any} */ query = undefined, /** @type {AbortSignal | undefined} */ signal = undefined) => call("GET", path, { query, signal });
export const post = (/** @type {string} */ path, /** @type {any} */ body = {}) => call("POST", path, { body });
export const put = (/** @type {string} */ path, /** @type {any} */ body = {}) => call("PUT", path, { body });

/** A path of the API from parts that may hold anything. @param {...string} parts */
export const v1 = (...parts) => "/v1/" + parts.map(encodeURIComponent).join("/");

/** @param {string} name */
function cookie(name) {
  const found = document.cookie.split("; ").find((each) => each.startsWith(name + "="));
  return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
}

function unique() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return "console-" + Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}
