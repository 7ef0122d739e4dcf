// Solve rates before training, and their predicted path under an advantage. No DOM.
//
// A start is {rates, weights}: solve rates, and the probability of each, with sum 1.

import { alphaFromSolveRate, decompose } from "./weights.js";

const MOST_RATES = 5000;

// Beta(a, b) at evenly spaced logits, where its density is p^a q^b: a sum over them converges fast,
// and the paths of the prompts stay evenly apart. What is cut off at either end is below 1e-6.
export function betaStart(a, b) {
  const width = Math.sqrt((28 * (a + b)) / (a * b));
  const first = Math.log(a / b) - 14 / a - width;
  const last = Math.log(a / b) + 14 / b + width;
  const points = Math.max(400, Math.ceil(last - first));
  const z = Array.from({ length: points }, (_, i) => first + ((last - first) * i) / (points - 1));
  const logDensity = z.map((x) => -a * softplus(-x) - b * softplus(x));
  const largest = Math.max(...logDensity);
  const density = logDensity.map((x) => Math.exp(x - largest));
  const total = density.reduce((x, y) => x + y, 0);
  return { rates: z.map((x) => 1 / (1 + Math.exp(-x))), weights: density.map((x) => x / total) };
}

const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

// A start from the text of a file: numbers in [0, 1], apart by spaces, commas or lines; one or two
// words of a header may come first. Throws an Error whose message is meant for the reader.
export function listStart(text) {
  const words = text.split(/[\s,;]+/).filter((word) => word !== "");
  const header = words.findIndex((word) => Number.isFinite(Number(word)));
  if (header < 0) throw new Error("The list has no number: give solve rates from 0 to 1.");
  const body = words.slice(header <= 2 ? header : 0);
  if (body.length > MOST_RATES) {
    throw new Error(`The list has ${body.length} numbers: give at most ${MOST_RATES}.`);
  }
  const counts = new Map();
  body.forEach((word, i) => {
    const rate = Number(word);
    if (!(rate >= 0 && rate <= 1)) {
      throw new Error(`Number ${i + 1} is “${word.slice(0, 20)}”: solve rates are from 0 to 1.`);
    }
    counts.set(rate, (counts.get(rate) ?? 0) + 1);
  });
  return countedStart([...counts].sort(([x], [y]) => x - y));
}

export function countedStart(counts) {
  const total = counts.reduce((sum, [, count]) => sum + count, 0);
  return {
    rates: counts.map(([rate]) => rate),
    weights: counts.map(([, count]) => count / total),
    counts,
  };
}

export const mean = ({ rates, weights }) => rates.reduce((sum, p, i) => sum + weights[i] * p, 0);

export const meanPassAtK = ({ rates, weights }, k) =>
  rates.reduce((sum, p, i) => sum + weights[i] * -Math.expm1(k * Math.log1p(-p)), 0);

// N_eff / N = (E w)² / E w²: 1 if every prompt has the same weight, 0 if all have none.
export function effectiveShare(values, weights) {
  const largest = values.reduce((most, w) => Math.max(most, Math.abs(w)), 0);
  if (largest === 0) return 0;
  let [sum, squares] = [0, 0];
  values.forEach((w, i) => {
    sum += (weights[i] * w) / largest;
    squares += weights[i] * (w / largest) ** 2;
  });
  return sum ** 2 / squares;
}

// The path of independent prompts under the expected gradient: logits z move in each step by
// η h(p) p q / √E[(h p q)²]. Entry 0 is before training; solve rates of 0 and 1 stay.
export function simulate(advantage, parameters, G, start, { steps, stepSize, k = 100 }) {
  const { weights } = start;
  const z = start.rates.map((p) => Math.log(p) - Math.log1p(-p));
  let now = { rates: start.rates, weights };
  let average = parameters.average;
  let parts = decompose(advantage, parameters, G);
  const path = { passAt1: [], passAtK: [], share: [], alpha: [] };
  for (let step = 0; step <= steps; step++) {
    const passAt1 = mean(now);
    let alpha = parameters.alpha ?? NaN;
    if (advantage.follows) {
      average += parameters.rate * (passAt1 - average);
      alpha = alphaFromSolveRate(average);
      parts = decompose(advantage, { ...parameters, alpha }, G);
    }
    const h = now.rates.map(parts.expectedWeight);
    const velocity = now.rates.map((p, i) => h[i] * p * (1 - p));
    path.passAt1.push(passAt1);
    path.passAtK.push(meanPassAtK(now, k));
    path.share.push(effectiveShare(h, weights));
    path.alpha.push(alpha);
    const scale = Math.sqrt(velocity.reduce((sum, v, i) => sum + weights[i] * v ** 2, 0));
    if (scale === 0 || step === steps) break;
    velocity.forEach((v, i) => (z[i] += (stepSize * v) / scale));
    now = { rates: z.map((x) => 1 / (1 + Math.exp(-x))), weights };
  }
  return { ...path, last: now };
}
