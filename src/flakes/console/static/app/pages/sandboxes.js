export function Sandboxes() { return null; } export function Sandbox() { return null; }
