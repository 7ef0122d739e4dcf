// Solve rates before training, and their predicted path under an advantage. No DOM.
//
// A start is {rates, weights}: solve rates, and the probability of each, with sum 1.

import { alphaFromSolveRate, decompose } from "./weights.js";

const MOST_RATES = 5000;

// Nodes and weights of the mean over Beta(a, b): Gauss-Jacobi, by Golub and Welsch.
export function betaStart(a, b, nodes = 32) {
  const [alpha, beta] = [b - 1, a - 1];
  const total = alpha + beta;
  const diagonal = [(beta - alpha) / (total + 2)];
  const beside = [];
  for (let n = 1; n < nodes; n++) {
    const m = 2 * n + total;
    diagonal.push(((beta - alpha) * total) / (m * (m + 2)));
    // At n = 1 the factor (n + α + β) cancels against (2n + α + β - 1), which may be 0.
    const ratio = n === 1 ? 1 : (n + total) / (m - 1);
    beside.push(Math.sqrt((4 * n * (n + alpha) * (n + beta) * ratio) / (m ** 2 * (m + 1))));
  }
  const { values, first } = eigenTridiagonal(diagonal, beside);
  const order = values.map((_, i) => i).sort((i, j) => values[i] - values[j]);
  return {
    rates: order.map((i) => Math.min(Math.max((values[i] + 1) / 2, 1e-12), 1 - 1e-12)),
    weights: order.map((i) => first[i] ** 2),
  };
}

// Eigenvalues, and the first component of each eigenvector, of a symmetric tridiagonal matrix, by
// implicit QL with Wilkinson's shift.
function eigenTridiagonal(diagonal, beside) {
  const d = [...diagonal];
  const e = [...beside, 0];
  const n = d.length;
  const first = d.map((_, i) => (i === 0 ? 1 : 0));
  for (let low = 0; low < n; low++) {
    for (;;) {
      let m = low;
      while (m < n - 1 && Math.abs(e[m]) > 1e-16 * (Math.abs(d[m]) + Math.abs(d[m + 1]))) m++;
      if (m === low) break;
      let g = (d[low + 1] - d[low]) / (2 * e[low]);
      g = d[m] - d[low] + e[low] / (g + Math.sign(g || 1) * Math.hypot(g, 1));
      let s = 1;
      let c = 1;
      let p = 0;
      for (let i = m - 1; i >= low; i--) {
        const f = s * e[i];
        const b = c * e[i];
        const r = Math.sqrt(f * f + g * g);
        e[i + 1] = r;
        s = r === 0 ? 0 : f / r;
        c = r === 0 ? 1 : g / r;
        g = d[i + 1] - p;
        const t = (d[i] - g) * s + 2 * c * b;
        p = s * t;
        d[i + 1] = g + p;
        g = c * t - b;
        const below = first[i + 1];
        first[i + 1] = s * first[i] + c * below;
        first[i] = c * first[i] - s * below;
      }
      d[low] -= p;
      e[low] = g;
      e[m] = 0;
    }
  }
  return { values: d, first };
}

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
