export function Hosts() { return null; } export function Host() { return null; }
