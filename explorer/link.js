// The choice as the part of a link after #, and back. No DOM.

import { countedStart } from "./dynamics.js";
import { advantageById } from "./weights.js";

export const GROUP_SIZES = [2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128];
export const ATTEMPTS = [2, 4, 8, 10, 16, 25, 32, 50, 64, 100, 128, 200, 256, 500, 1000];
export const NUMBERS = {
  a: { least: 0.1, most: 10, step: 0.1 },
  b: { least: 0.1, most: 10, step: 0.1 },
  steps: { least: 50, most: 1000, step: 50 },
  eta: { least: 0.01, most: 0.3, step: 0.01 },
  p: { least: 0, most: 1, step: 0.01 },
};
// Browsers keep links longer than this, but mail and chat programs cut them.
const LONGEST_LIST = 1800;

export function initialParameters(advantage, G) {
  const pairs = advantage.parameters.map((parameter) => [
    parameter.id,
    Math.min(parameter.initial, largest(parameter, G)),
  ]);
  return Object.fromEntries(pairs);
}

export const largest = ({ most }, G) => (typeof most === "function" ? most(G) : most);

const chosen = (id, given) => ({ id, parameters: given });

export function initialChoice() {
  return {
    A: chosen("power", { alpha: 3 }),
    B: chosen("grpo", {}),
    G: 16,
    start: { kind: "beta", a: 0.5, b: 1.5 },
    steps: 150,
    eta: 0.05,
    k: 100,
    equal: true,
    p: 0.3,
  };
}

export function toHash(choice) {
  const query = new URLSearchParams();
  for (const side of ["A", "B"]) {
    query.set(side, choice[side].id);
    for (const [id, value] of Object.entries(choice[side].parameters)) {
      query.set(`${side}.${id}`, value);
    }
  }
  query.set("G", choice.G);
  if (choice.start.kind === "beta") query.set("beta", `${choice.start.a}_${choice.start.b}`);
  else if (fitsLink(choice.start)) query.set("rates", listText(choice.start));
  for (const id of ["steps", "eta", "k", "p"]) query.set(id, choice[id]);
  query.set("equal", choice.equal ? 1 : 0);
  return `#${query}`;
}

const listText = ({ counts }) => counts.map(([p, n]) => (n > 1 ? `${p}x${n}` : p)).join("_");

export const fitsLink = (start) => start.kind === "beta" || listText(start).length <= LONGEST_LIST;

// The choice of a link, and what of it was not allowed, as sentences.
export function fromHash(hash) {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const choice = initialChoice();
  const problems = [];

  function number(name, text, { least, most }, otherwise) {
    const value = Number(text);
    if (text !== "" && value >= least && value <= most) return value;
    problems.push(`${name} must be from ${least} to ${most}, the link has “${text}”.`);
    return otherwise;
  }

  function oneOf(name, allowed) {
    if (!query.has(name)) return;
    const value = Number(query.get(name));
    if (allowed.includes(value)) choice[name] = value;
    else problems.push(`${name} must be one of ${allowed.join(", ")}, the link has “${query.get(name)}”.`);
  }

  oneOf("G", GROUP_SIZES);
  oneOf("k", ATTEMPTS);
  for (const side of ["A", "B"]) {
    if (!query.has(side)) continue;
    const advantage = advantageById(query.get(side));
    if (!advantage) {
      problems.push(`${side} has no advantage “${query.get(side)}”.`);
      continue;
    }
    const parameters = initialParameters(advantage, choice.G);
    for (const parameter of advantage.parameters) {
      const name = `${side}.${parameter.id}`;
      if (!query.has(name)) continue;
      const bounds = { least: parameter.least, most: largest(parameter, choice.G) };
      parameters[parameter.id] = number(name, query.get(name), bounds, parameters[parameter.id]);
    }
    choice[side] = chosen(advantage.id, parameters);
  }
  if (query.has("beta")) {
    const [a, b = ""] = query.get("beta").split("_");
    const { start } = choice;
    start.a = number("beta's a", a, NUMBERS.a, start.a);
    start.b = number("beta's b", b, NUMBERS.b, start.b);
  }
  if (query.has("rates")) {
    const counts = query.get("rates").split("_").map((item) => {
      const [rate, count = "1"] = item.split("x");
      return [Number(rate || NaN), Number(count)];
    });
    const allowed = ([p, n]) => p >= 0 && p <= 1 && Number.isInteger(n) && n >= 1;
    if (counts.every(allowed)) choice.start = { kind: "list", ...countedStart(counts) };
    else problems.push("rates must be solve rates from 0 to 1 with counts, such as 0.125x3_0.5.");
  }
  for (const id of ["steps", "eta", "p"]) {
    if (query.has(id)) choice[id] = number(id, query.get(id), NUMBERS[id], choice[id]);
  }
  choice.equal = (query.get("equal") ?? "1") === "1";
  return { choice, problems };
}
