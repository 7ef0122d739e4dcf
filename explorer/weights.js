// Gradient masses of advantages for binary rewards, exact at a finite group size. No DOM.
//
// An advantage here is a function of (r, K, G): the reward of a rollout, the number of successes in
// its group and the group size. fade_jax is the reference; golden.json holds this file to it.

// C(c, k) / C(n, k), as a product, since the coefficients overflow.
function subsetRatio(c, n, k) {
  let ratio = 1;
  for (let j = 0; j < k; j++) ratio *= Math.max(c - j, 0) / Math.max(n - j, 1);
  return ratio;
}

const range = (n) => Array.from({ length: n }, (_, i) => i);
const centered = (r, K, G) => r - K / G;
const suppressed = (a, delta) => (a >= 0 ? a : a / delta);

function standardized(r, K, G, ddof = 1) {
  const deviation = Math.sqrt((K * (G - K)) / G / Math.max(G - ddof, 1));
  return deviation > 0 ? centered(r, K, G) / (deviation + 1e-6) : 0;
}

function focal(K, G, alpha) {
  return K < G || alpha === 1 ? (1 - K / G) ** (alpha - 1) : 0;
}

const powerAsym = (r, K, G, { alpha, delta }) =>
  suppressed(focal(K, G, alpha) * centered(r, K, G), delta);

function aGrae(r, K, G, { omega }) {
  if (K === 0 || K === G) return 0;
  const z = standardized(r, K, G);
  const weight = (omega / Math.sqrt(K / G) + (1 - omega) / Math.sqrt(1 - K / G)) / 2;
  return weight * z * (z > 0 ? Math.min(1, omega) : 1);
}

function quantile(r, K, G, { level }) {
  const deviation = Math.sqrt((K * (G - K)) / G / (G - 1));
  const rank = Math.ceil(level * G * (1 - 1e-6)) - 1;
  return deviation > 0 ? (r - (rank >= G - K ? 1 : 0)) / (deviation + 1e-6) : 0;
}

const anyOf = (c, n, k) => 1 - subsetRatio(n - c, n, k);
const pkpo = (r, K, G, { k }) => (r ? k * subsetRatio(G - K, G - 1, k - 1) : 0);
const pkpoNone = (r, K, G, { k }) => (r ? k : k * anyOf(K, G - 1, k - 1));

function pkpoLoo(r, K, G, { k }) {
  const baseline = ((G * k) / (G - 1)) * anyOf(K - r, G - 1, k);
  return (r ? k : k * anyOf(K, G - 1, k - 1)) - baseline;
}

function passAtKTraining(r, K, G, { k }) {
  const allFail = subsetRatio(G - K, G, k);
  if (allFail <= 0 || allFail >= 1) return 0;
  const own = r ? 0 : subsetRatio(G - K - 1, G - 1, k - 1);
  return (allFail - own) / Math.sqrt(allFail * (1 - allFail));
}

// Of the Bernstein coefficients b of h, the share of a success or a failure that has the smallest
// second moment over a uniform density of solve rates.
function synthesized(coefficient) {
  return (r, K, G, parameters) => {
    const others = K - r;
    const b = coefficient(others, G, parameters);
    return r ? (b * (G - others)) / (G + 1) : (-b * (others + 1)) / (G + 1);
  };
}

function temperedCoefficient(j, G, { beta }) {
  let b = 1;
  for (let m = G - 1; m > j; m--) b *= (m + beta) / m;
  return b;
}

// FADE's exponent at a moving average of the solve rate.
export function alphaFromSolveRate(average, alphaMax = 3) {
  return Math.min(Math.max((1.5 * (1 - average)) / Math.max(average, 1e-38), 1), alphaMax);
}

function parameter(id, symbol, says, least, most, step, initial) {
  return { id, symbol, says, least, most, step, initial };
}

const ALPHA = parameter("alpha", "α", "focus on hard prompts", 0, 6, 0.1, 3);
const DELTA = parameter("delta", "δ", "below 1 pushes harder on failures", 0.1, 3, 0.05, 0.5);
const BETA = parameter("beta", "β", "0 the solve rate, 1 its logarithm", 0, 2, 0.05, 0.5);
// The largest k depends on the group size.
const K = parameter("k", "k", "attempts of pass@k", 1, (G) => G, 1, 4);

function entry(id, name, formula, of, ...parameters) {
  return { id, name, formula, of, parameters };
}

export const ADVANTAGES = [
  entry("rloo", "RLOO", "G/(G−1) · (r − r̄)", (r, K, G) => (G / (G - 1)) * centered(r, K, G)),
  entry("dr_grpo", "GRPO without std", "r − r̄", centered),
  entry("grpo", "GRPO", "(r − r̄) / s", (r, K, G) => standardized(r, K, G)),
  entry("power", "Power", "(1 − r̄)^(α−1) · (r − r̄)",
    (r, K, G, { alpha }) => focal(K, G, alpha) * centered(r, K, G), ALPHA),
  entry("power_asym", "Power-asym", "Power(α), failures divided by δ", powerAsym,
    { ...ALPHA, initial: 2 }, DELTA),
  {
    ...entry("fade", "FADE", "Power-asym, α from the moving average p̂ of the solve rate",
      (r, K, G, { average, delta, alpha = alphaFromSolveRate(average) }) =>
        powerAsym(r, K, G, { alpha, delta }),
      parameter("average", "p̂", "solve rate before the first batch", 0.05, 0.95, 0.05, 0.5),
      parameter("rate", "rate", "weight of a new batch in p̂", 0.01, 1, 0.01, 0.02),
      parameter("delta", "δ", "held fixed: the entropy is not modeled", 0.3, 1, 0.05, 1)),
    follows: true,
  },
  entry("asym_grpo", "AsymGRPO", "r − r̄, failures divided by δ",
    (r, K, G, { delta }) => suppressed(centered(r, K, G), delta), DELTA),
  entry("f_grpo", "F-GRPO", "(1 − r̄)^γ · GRPO",
    (r, K, G, { gamma }) => focal(K, G, gamma + 1) * standardized(r, K, G),
    parameter("gamma", "γ", "focus on hard prompts", 0, 4, 0.1, 1)),
  entry("max_rl", "MaxRL", "(r − r̄) / r̄", (r, K, G) => (K ? centered(r, K, G) / (K / G) : 0)),
  entry("tempered_likelihood", "Tempered likelihood", "(r − r̄) / r̄^β",
    (r, K, G, { beta }) => (K ? centered(r, K, G) * (K / G) ** -beta : 0), BETA),
  entry("log_mean_exp", "Log-mean-exp", "(e^(βr) / mean e^(βr) − 1) / β",
    (r, K, G, { beta }) => {
      const mean = 1 + (K / G) * Math.expm1(beta);
      return (r ? Math.exp(beta) - mean : 1 - mean) / (mean * beta);
    },
    parameter("beta", "β", "toward the best rollout", 0.1, 10, 0.1, 2)),
  entry("pkpo", "PKPO", "k times the chance that the others all fail",
    pkpo, K),
  entry("pkpo_loo", "PKPO loo", "own share of pass@k − pass@k of the others", pkpoLoo,
    { ...K, most: (G) => G - 1 }),
  entry("pkpo_none", "PKPO no baseline", "own share of pass@k", pkpoNone, K),
  entry("pass_at_k_training", "Pass@k Training", "the best of k, standardized over k-subsets",
    passAtKTraining, K),
  entry("leave_one_out_pass_at_g", "Leave-one-out pass@G", "1 for an only success, else 0",
    (r, K) => (r && K === 1 ? 1 : 0)),
  entry("synthesized_pass_at_k", "Synthesized pass@k", "h = k q^(k−1), least second moment",
    synthesized((j, G, { k }) => k * subsetRatio(G - 1 - j, G - 1, k - 1)), K),
  entry("synthesized_tempered", "Synthesized tempered likelihood",
    "h = p^(−β) up to q^(G−1), least second moment", synthesized(temperedCoefficient), BETA),
  entry("reinforce", "REINFORCE", "r − b", (r, K, G, { baseline }) => r - baseline,
    parameter("baseline", "b", "constant baseline", 0, 1, 0.05, 0.3)),
  entry("psr", "PSR", "r", (r) => r),
  entry("nsr", "NSR", "r − 1", (r) => r - 1),
  entry("w_reinforce", "W-REINFORCE", "λ for a success, −1 for a failure",
    (r, K, G, { positive_weight }) => (r ? positive_weight : -1),
    parameter("positive_weight", "λ", "weight of a success", 0, 2, 0.05, 0.1)),
  entry("quantile", "Quantile (QAE)", "(r − quantile of the group) / s", quantile,
    parameter("level", "level", "of the quantile", 0.05, 1, 0.05, 0.4)),
  entry("a_grae", "A-GRAE", "½ (ω/√r̄ + (1−ω)/√(1−r̄)) · GRPO, successes times min(1, ω)", aGrae,
    parameter("omega", "ω", "focus on hard prompts", 0, 1, 0.05, 0.7)),
  entry("opo", "OPO", "r − mean reward weighted by length",
    (r, K, G, { length_ratio }) => r - K / (K + (G - K) * length_ratio),
    parameter("length_ratio", "L_F/L_S", "mean length of failures over successes",
      0.25, 4, 0.05, 2)),
];

export const advantageById = (id) => ADVANTAGES.find((advantage) => advantage.id === id);

// w_S and w_F, each [G]; entry k belongs to k successes among the other G - 1 rollouts.
export function outcomeWeights(advantage, parameters, G) {
  return {
    success: range(G).map((k) => advantage.of(1, k + 1, G, parameters)),
    failure: range(G).map((k) => 0 - advantage.of(0, k, G, parameters)), // never -0
  };
}

// E[b_K], K ~ Binomial(len(b) - 1, p): a polynomial in Bernstein form. The probabilities are ratios
// of neighbors from the mode out, so that nothing overflows.
export function bernstein(b, p) {
  const n = b.length - 1;
  const mode = Math.min(Math.floor((n + 1) * p), n);
  let [total, sum] = [1, b[mode]];
  for (let k = mode, chance = 1; k < n; k++) {
    chance *= ((n - k) * p) / ((k + 1) * (1 - p));
    total += chance;
    sum += chance * b[k + 1];
  }
  for (let k = mode, chance = 1; k > 0; k--) {
    chance *= (k * (1 - p)) / ((n - k + 1) * p);
    total += chance;
    sum += chance * b[k - 1];
  }
  return sum / total;
}

export const signRatio = ({ success, failure }) => success / failure;

// The decomposition as functions of p: masses, h, F and the outcome weights.
export function decompose(advantage, parameters, G, scale = 1) {
  const raw = outcomeWeights(advantage, parameters, G);
  const success = raw.success.map((x) => x * scale);
  const failure = raw.failure.map((x) => x * scale);
  const b = success.map((x, k) => x + failure[k]);
  const sums = [0];
  for (const x of b) sums.push(sums[sums.length - 1] + x / G);
  return {
    success,
    failure,
    masses: (p) => ({
      success: p * bernstein(success, p),
      failure: (1 - p) * bernstein(failure, p),
    }),
    expectedWeight: (p) => bernstein(b, p),
    // F = ∫ h from 0 to p, exact: the integral of a polynomial in Bernstein form.
    objective: (p) => bernstein(sums, p),
  };
}

// Mean of m_S + m_F over a start, {rates, weights}.
export function meanMass({ masses }, { rates, weights }) {
  return rates.reduce((sum, p, i) => {
    const { success, failure } = masses(p);
    return sum + weights[i] * (success + failure);
  }, 0);
}

// The p with the most mass on successes, on a fine grid; NaN without success mass.
export function peakSolveRate({ masses }) {
  let best = { p: NaN, mass: 0 };
  for (let i = 0; i <= 500; i++) {
    const mass = masses(i / 500).success;
    if (mass > best.mass + 1e-12) best = { p: i / 500, mass };
  }
  return best.p;
}
