export const ENTRANCES = ["/sign-in"]; export function Entrance() { return "Sign in"; }
