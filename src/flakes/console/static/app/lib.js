// @ts-check
/** What pages are made with, in one place: Preact, its hooks, signals, and `html` for templates. */
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import htm from "../vendor/htm.js";
import { Fragment, createElement, render } from "../vendor/preact.js";

export { Fragment, render };
export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/hooks.js";
export { batch, computed, effect, signal, untracked, useComputed, useSignal, useSignalEffect } from "../vendor/signals.js";

/** A value that changes often, at most once in so many ms. @template T @param {T} value @param {number} everyMs @returns {T} */
export function useCalm(value, everyMs) {
  const [, redraw] = useState(0);
  const own = useRef({ value, at: -Infinity, timer: 0 }).current;
  const left = own.at + everyMs - performance.now();
  if (own.value !== value && left <= 0) { own.value = value; own.at = performance.now(); }
  else if (own.value !== value && !own.timer) own.timer = setTimeout(() => { own.timer = 0; redraw((n) => n + 1); }, left);
  useEffect(() => () => clearTimeout(own.timer), []);
  return own.value;
}

/** A template as nodes. @type {(strings: TemplateStringsArray, ...values: any[]) => any} */
export const html = htm.bind(createElement);

/** Class names that apply. @param {...(string|false|null|undefined)} names */
export const cx = (...names) => names.filter(Boolean).join(" ");

const FORMAT = new Intl.NumberFormat("en");
/** `12,345`. @param {number} n */
export const number = (n) => FORMAT.format(n);

/** `3 tasks`, `1 task`. @param {number} n @param {string} noun @param {string} [plural] */
export const count = (n, noun, plural) => `${number(n)} ${n === 1 ? noun : plural ?? noun + "s"}`;
