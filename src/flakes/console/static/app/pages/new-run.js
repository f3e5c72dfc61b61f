export function NewRun() { return null; }
