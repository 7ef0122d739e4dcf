// The mathematics of the explorer, against golden.json of fade_jax and closed forms.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import * as dynamics from "../../explorer/dynamics.js";
import * as weights from "../../explorer/weights.js";

const golden = JSON.parse(readFileSync(new URL("../../explorer/golden.json", import.meta.url)));

// The library computes in float32.
function close(found, expected, tolerance, what) {
  const size = Math.max(1, Math.abs(expected));
  assert.ok(Math.abs(found - expected) <= tolerance * size, `${what}: ${found} for ${expected}`);
}

function allClose(found, expected, tolerance, what) {
  assert.equal(found.length, expected.length, what);
  expected.forEach((x, i) => x !== null && close(found[i], x, tolerance, `${what}[${i}]`));
}

const parts = (id, parameters, G) =>
  weights.decompose(weights.advantageById(id), parameters, G);
const DENSITY = dynamics.betaStart(...golden.density);

for (const { id, parameters, group_size: G, ...expected } of golden.cases) {
  test(`decompose ${id} ${JSON.stringify(parameters)} G=${G} equals fade_jax`, () => {
    const found = parts(id, parameters, G);
    const p = golden.solve_rates;
    const masses = p.map(found.masses);
    const h = p.map(found.expectedWeight);
    const success = masses.map((m) => m.success);
    const failure = masses.map((m) => m.failure);
    allClose(success, expected.success, 1e-5, "success");
    allClose(failure, expected.failure, 1e-5, "failure");
    allClose(h, expected.weight, 1e-5, "weight");
    allClose(p.map(found.objective), expected.objective, 1e-5, "objective");
    allClose(masses.map(weights.signRatio), expected.ratio, 2e-3, "ratio");
    close(dynamics.effectiveShare(h, p.map(() => 1 / p.length)), expected.share, 1e-5, "share");
    close(weights.meanMass(found, DENSITY), expected.mean_mass, 1e-5, "mean mass");
  });
}

for (const { id, parameters, group_size: G, ...expected } of golden.paths) {
  test(`simulate ${id} ${JSON.stringify(parameters)} equals fade_jax`, () => {
    const settings = { steps: golden.steps, stepSize: golden.step_size, k: 100 };
    const found = dynamics.simulate(weights.advantageById(id), parameters, G, golden.start, settings);
    const some = (values) => values.filter((_, i) => i % golden.every === 0);
    allClose(some(found.passAt1), expected.pass_at_1, 2e-4, "pass@1");
    allClose(some(found.passAtK), expected.pass_at_100, 2e-4, "pass@100");
    if (weights.advantageById(id).follows) {
      allClose(some(found.alpha), expected.alpha, 1e-3, "alpha");
    }
  });
}

test("golden.json has every advantage of the page", () => {
  const held = new Set(golden.cases.map(({ id }) => id));
  assert.deepEqual(weights.ADVANTAGES.map(({ id }) => id).filter((id) => !held.has(id)), []);
});

test("betaStart has the moments of the density", () => {
  for (const [a, b] of [[1, 1], [0.2, 0.3], [0.1, 0.1], [0.1, 10], [8, 2], [10, 10]]) {
    const start = dynamics.betaStart(a, b);
    const total = start.weights.reduce((x, y) => x + y, 0);
    const square = start.rates.reduce((sum, p, i) => sum + start.weights[i] * p ** 2, 0);
    close(total, 1, 1e-12, "total");
    close(dynamics.mean(start), a / (a + b), 2e-6, "mean");
    close(square, (a * (a + 1)) / ((a + b) * (a + b + 1)), 2e-6, "square");
  }
});

test("bernstein weighs by binomial probabilities, and is exact at the ends", () => {
  const unit = (n, k) => Array.from({ length: n + 1 }, (_, i) => (i === k ? 1 : 0));
  [1, 6, 15, 20, 15, 6, 1].forEach((c, k) => {
    close(weights.bernstein(unit(6, k), 0.3), c * 0.3 ** k * 0.7 ** (6 - k), 1e-14, `k = ${k}`);
  });
  assert.equal(weights.bernstein([3, 5, 7], 0), 3);
  assert.equal(weights.bernstein([3, 5, 7], 1), 7);
  const identity = Array.from({ length: 257 }, (_, k) => k / 256);
  close(weights.bernstein(identity, 0.37), 0.37, 1e-13, "mean of a binomial count");
});

test("decompose has the closed forms of the large-group table at any G", () => {
  for (const G of [4, 64, 128]) {
    for (const p of [0.02, 0.3, 0.8]) {
      const q = 1 - p;
      close(parts("pkpo", { k: 3 }, G).expectedWeight(p), 3 * q ** 2, 1e-12, "PKPO's h");
      close(parts("pkpo_loo", { k: 3 }, G).expectedWeight(p), 3 * q ** 2, 1e-12, "loo's h");
      close(parts("rloo", {}, G).objective(p), p, 1e-12, "RLOO's F");
      close(parts("max_rl", {}, G).masses(p).success, q - q ** G, 1e-12, "MaxRL's m_S");
      close(parts("leave_one_out_pass_at_g", {}, G).objective(p), (1 - q ** G) / G, 1e-12, "F");
    }
  }
});

test("signRatio is infinite without failure mass, 0 without success mass", () => {
  assert.equal(weights.signRatio(parts("psr", {}, 8).masses(0.3)), Infinity);
  assert.equal(weights.signRatio(parts("nsr", {}, 8).masses(0.3)), 0);
  assert.ok(Number.isNaN(weights.signRatio(parts("rloo", {}, 8).masses(0))));
});

test("peakSolveRate finds the peaks of closed forms", () => {
  close(weights.peakSolveRate(parts("rloo", {}, 8)), 1 / 2, 1e-3, "RLOO");
  close(weights.peakSolveRate(parts("pkpo", { k: 4 }, 8)), 1 / 4, 1e-3, "PKPO");
  assert.ok(Number.isNaN(weights.peakSolveRate(parts("nsr", {}, 8))));
});

test("listStart reads lists and says what is wrong with others", () => {
  const read = dynamics.listStart("solve_rate\n0.5, 0.25\n0.5;1\r\n");
  assert.deepEqual(read.rates, [0.25, 0.5, 1]);
  assert.deepEqual(read.weights, [0.25, 0.5, 0.25]);
  assert.throws(() => dynamics.listStart(" \n"), /no number/);
  assert.throws(() => dynamics.listStart("0.5 1.5"), /Number 2 is “1.5”/);
  assert.throws(() => dynamics.listStart("0.5 hard"), /Number 2 is “hard”/);
  assert.throws(() => dynamics.listStart("0.5 ".repeat(6000)), /at most 5000/);
});

test("simulate keeps solve rates of 0 and 1", () => {
  const start = dynamics.countedStart([[0, 1], [0.5, 2], [1, 1]]);
  const settings = { steps: 50, stepSize: 0.1 };
  const path = dynamics.simulate(weights.advantageById("rloo"), {}, 8, start, settings);
  assert.deepEqual([path.last.rates[0], path.last.rates[2]], [0, 1]);
  assert.ok(path.last.rates[1] > 0.5);
  // With one moving prompt, every step moves its logit by η / √(its probability).
  close(path.passAt1[50], 0.25 + 0.5 / (1 + Math.exp((-50 * 0.1) / Math.SQRT1_2)), 1e-9, "p");
});

test("simulate stops where no prompt can move", () => {
  const start = dynamics.countedStart([[0, 1], [1, 1]]);
  const settings = { steps: 50, stepSize: 0.1 };
  const path = dynamics.simulate(weights.advantageById("grpo"), {}, 8, start, settings);
  assert.deepEqual(path.passAt1, [0.5]);
});
