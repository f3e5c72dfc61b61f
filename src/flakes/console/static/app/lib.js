// @ts-check
/** What pages are made with, in one place: Preact, its hooks, signals, and `html` for templates. */
import htm from "../vendor/htm.js";
import { Fragment, createElement, render } from "../vendor/preact.js";

export { Fragment, render };
export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/hooks.js";
export { batch, computed, effect, signal, untracked, useComputed, useSignal, useSignalEffect } from "../vendor/signals.js";

/** A template as nodes. @type {(strings: TemplateStringsArray, ...values: any[]) => any} */
export const html = htm.bind(createElement);

/** Class names that apply. @param {...(string|false|null|undefined)} names */
export const cx = (...names) => names.filter(Boolean).join(" ");

/** `3 tasks`, `1 task`. @param {number} n @param {string} noun @param {string} [plural] */
export const count = (n, noun, plural) => `${n.toLocaleString("en")} ${n === 1 ? noun : plural ?? noun + "s"}`;
