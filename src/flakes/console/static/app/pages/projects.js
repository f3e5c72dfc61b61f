export function Projects() { return null; } export function Project() { return null; }
