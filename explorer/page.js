// The page: controls, the choice they hold, and the figures drawn from it.

import { axis, axisOf, drawChart, element, shown, subscripted, ticks } from "./chart.js";
import { makeControls } from "./controls.js";
import * as dynamics from "./dynamics.js";
import * as link from "./link.js";
import * as weights from "./weights.js";

const GRID = Array.from({ length: 201 }, (_, i) => i / 200);
const SIDES = ["A", "B"];
const byId = (id) => document.getElementById(id);

// The choice, and what to do when a control has changed it.
const store = { choice: undefined, changed };
let controls = [];

// What the choice gives: for each side its name, decomposition and path.

function shortName({ id, parameters }) {
  const advantage = weights.advantageById(id);
  const values = advantage.parameters.map((parameter) => parameters[parameter.id]);
  const short = advantage.name.replace("Synthesized", "Synth.")
    .replace("ikelihood", "ikel.").replace("Leave-one-out", "LOO").replace(" (QAE)", "");
  return advantage.follows || !values.length ? short : `${short}(${values.join(", ")})`;
}

const startOf = (start) =>
  start.kind === "beta" ? dynamics.betaStart(start.a, start.b) : start;

function compute() {
  const start = startOf(store.choice.start);
  const { G, steps, eta: stepSize, k } = store.choice;
  const sides = SIDES.map((side) => {
    const advantage = weights.advantageById(store.choice[side].id);
    const { parameters } = store.choice[side];
    const parts = weights.decompose(advantage, parameters, G);
    const path = dynamics.simulate(advantage, parameters, G, start, { steps, stepSize, k });
    return { side, name: shortName(store.choice[side]), parts, path, times: "" };
  });
  const [a, b] = sides.map(({ parts }) => weights.meanMass(parts, start));
  if (store.choice.equal && a > 0 && b > 0) {
    const { id, parameters } = store.choice.B;
    sides[1].times = ` × ${shown(a / b, 3)}`;
    sides[1].parts = weights.decompose(weights.advantageById(id), parameters, G, a / b);
  }
  const factor = a > 0 && b > 0 ? `B is times ${shown(a / b, 3)}.` : "Not possible: it is not above 0.";
  byId("equal-hint").textContent = "A factor on an advantage acts like one on the learning rate."
    + (store.choice.equal ? ` ${factor}` : "");
  return { start, sides };
}

// Figures

const P_AXIS = axis("solve rate p", [0, 0.25, 0.5, 0.75, 1]);

function readAt(p) {
  store.choice.p = Math.round(p * 100) / 100;
  changed();
}

// One line per side; the label is the name of its advantage.
function lines(sides, pointsOf) {
  return sides.map(({ side, name, parts, path }) => (
    { side, label: name, points: pointsOf(parts, path) }));
}

const overP = (f) => GRID.map((p) => [p, f(p)]);
const overSteps = (values) => values.map((value, step) => [step, value]);

// Widths of all figures, read before any is drawn: else each would lay out the page again.
const widths = {};

function measure() {
  for (const figure of document.querySelectorAll("figure")) {
    widths[figure.id] = Math.max(figure.clientWidth, 200);
  }
}

function chart(id, title, x, y, series, others = {}) {
  drawChart(byId(id), { width: widths[id], title, x, y, series, ...others });
}

function drawWeights(sides) {
  const rule = { rule: store.choice.p, onPoint: readAt };
  const masses = sides.map(({ side, parts }) => {
    const values = GRID.map(parts.masses);
    const of = (outcome) => values.map((mass, i) => [GRID[i], mass[outcome]]);
    const equal = values.every(({ success, failure }) => Math.abs(success - failure) < 1e-9);
    const success = { side, points: of("success"), label: equal ? "m_S = m_F" : "m_S" };
    const failure = { side, points: of("failure"), label: "m_F", dashed: true };
    return equal ? [success] : [success, failure];
  });
  const massAxis = axisOf(masses.flat(), { label: "gradient mass" });
  sides.forEach(({ side, name, times }, i) => {
    const heading = element("span", { class: side }, `${side}: ${name}${times}`);
    byId(`mass-${side}`).querySelector("h3").replaceChildren(heading);
    chart(`mass-${side}`, `Gradient masses of ${name} over the solve rate`, P_AXIS, massAxis, masses[i],
      { labels: "peak", ...rule });
  });

  const h = lines(sides, (parts) => overP(parts.expectedWeight));
  chart("weight", "Expected weight over the solve rate", P_AXIS, axisOf(h, { label: "h(p)" }), h, rule);
  const f = lines(sides, (parts) => overP(parts.objective));
  chart("objective", "Implied objective over the solve rate", P_AXIS,
    axisOf(f, { label: "F(p) − F(0)" }), f, rule);

  // A ratio r is drawn at r / (1 + r), where 0 and infinity have a place.
  const ratioAxis = axis("m_S/m_F", [0, 0.25, 0.5, 0.75, 1], (x) => ["0", "1/3", "1", "3", "∞"][x * 4]);
  const ratio = lines(sides, (parts) => GRID.map((p) => {
    const mass = parts.masses(p);
    const r = weights.signRatio(mass);
    const drawn = r === Infinity ? 1 : r >= 0 ? r / (1 + r) : NaN;
    return [p, drawn];
  }));
  const negative = sides.filter(({ parts }) => GRID.some((p) => weights.signRatio(parts.masses(p)) < 0));
  const note = negative.map(({ side }) => `${side}: negative where no line is.`).join(" ");
  chart("ratio", "Sign ratio over the solve rate", P_AXIS, ratioAxis, ratio, { ...rule, note });
}

function drawTraining({ start, sides }) {
  const { steps, k } = store.choice;
  const stepAxis = axis("step", ticks(0, steps));
  const ends = { least: 0, most: 1 };
  const still = sides.filter(({ path }) => path.passAt1.length <= steps && path.passAt1.length > 0);
  const note = still.map(({ side }) => `${side}: no prompt has a gradient.`).join(" ");
  const draw = (id, title, label, field, bounds) => {
    const series = lines(sides, (_, path) => overSteps(path[field]));
    chart(id, title, stepAxis, axisOf(series, { label, ...bounds }), series, { note });
  };
  byId("pass-k").querySelector("h3").textContent = `Mean pass@${k}`;
  byId("front").querySelector("h3").textContent = `pass@${k} at equal pass@1`;
  draw("share", "Effective sample size over training steps", "N_eff / N", "share", ends);
  draw("pass-1", "Mean solve rate over training steps", "pass@1", "passAt1", ends);
  draw("pass-k", `Mean pass@${k} over training steps`, `pass@${k}`, "passAtK", { free: true });
  const front = lines(sides, (_, path) => path.passAt1.map((x, i) => [x, path.passAtK[i]]));
  chart("front", `pass@${k} over pass@1`, axis("pass@1", [0, 0.25, 0.5, 0.75, 1]),
    axisOf(front, { label: `pass@${k}`, free: true }), front);
  const staircase = ({ rates, weights: share }) => {
    let below = 0;
    const points = [[0, 0]];
    // Prompts of a list are few, those of a density are as good as continuous.
    const jumps = store.choice.start.kind === "list";
    rates.forEach((p, i) => {
      if (jumps) points.push([p, below]);
      points.push([p, (below += share[i])]);
    });
    return [...points, [1, below]];
  };
  const distributions = [
    { side: "start", label: "before", points: staircase(start) },
    ...sides.map(({ side, name, path }) => ({ side, label: name, points: staircase(path.last) })),
  ];
  chart("rates", "Distribution of solve rates before and after training", P_AXIS,
    axisOf(distributions, { label: "share of prompts", ...ends }), distributions);
}

// Tables and CSV

const COLUMNS = [
  ["m_S", (parts, p) => parts.masses(p).success],
  ["m_F", (parts, p) => parts.masses(p).failure],
  ["h", (parts, p) => parts.expectedWeight(p)],
  ["F", (parts, p) => parts.objective(p)],
  ["m_S/m_F", (parts, p) => weights.signRatio(parts.masses(p))],
];

function table(caption, head, rows) {
  const cell = (name, scope) => (value) => (
    element(name, scope ? { scope } : {}, ...subscripted(value)));
  return element("table", {}, element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...head.map(cell("th", "col")))),
    element("tbody", {}, ...rows.map(([first, ...rest]) => (
      element("tr", {}, cell("th", "row")(first), ...rest.map(cell("td")))))));
}

function drawTables(sides) {
  const { p } = store.choice;
  const rows = COLUMNS.map(([name, of]) => [name, ...sides.map(({ parts }) => shown(of(parts, p)))]);
  rows.push(["peak of m_S, p", ...sides.map(({ parts }) => shown(weights.peakSolveRate(parts), 3))]);
  rows.push(["N_eff/N at start", ...sides.map(({ path }) => shown(path.share[0]))]);
  const names = sides.map(({ side, name, times }) => `${side}: ${name}${times}`);
  const atP = `At solve rate p = ${p.toFixed(2)}`;
  byId("at-p").replaceChildren(table(atP, ["value", ...names], rows));

  const some = Array.from({ length: 21 }, (_, i) => i / 20);
  const head = ["p", ...sides.flatMap(({ side }) => COLUMNS.map(([name]) => `${side} ${name}`))];
  const full = some.map((at) => [at.toFixed(2),
    ...sides.flatMap(({ parts }) => COLUMNS.map(([, of]) => shown(of(parts, at))))]);
  byId("values").querySelector(".scroll").replaceChildren(
    table(`${names.join("; ")}; G = ${store.choice.G}`, head, full));
}

const csvText = (rows) => `${rows.map((row) => row.join(",")).join("\n")}\n`;
// As Python and R read them.
const csvNumber = (x) => (Number.isNaN(x) ? "nan" : String(x).replace("Infinity", "inf"));

function weightsCsv({ sides }) {
  const fields = ["m_S", "m_F", "h", "F", "ratio"];
  const rows = Array.from({ length: 101 }, (_, i) => i / 100).map((p) => [p,
    ...sides.flatMap(({ parts }) => COLUMNS.map(([, of]) => csvNumber(of(parts, p))))]);
  return csvText([["p", ...sides.flatMap(({ side }) => fields.map((f) => `${side}_${f}`))], ...rows]);
}

function trainingCsv({ sides }) {
  const fields = { passAt1: "pass_at_1", passAtK: `pass_at_${store.choice.k}`, share: "effective_share" };
  const head = ["step", ...sides.flatMap(({ side }) => Object.values(fields).map((f) => `${side}_${f}`))];
  const length = Math.max(...sides.map(({ path }) => path.passAt1.length));
  const rows = Array.from({ length }, (_, step) => [step, ...sides.flatMap(({ path }) => (
    Object.keys(fields).map((field) => csvNumber(path[field][step] ?? NaN))))]);
  return csvText([head, ...rows]);
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// Drawing, and the way from a change to it

let result;
let computed;
let waiting = false;
let remembering;

function draw() {
  const began = performance.now();
  waiting = false;
  controls.forEach((control) => control.show());
  measure();
  // Reading at another p computes nothing anew.
  const of = JSON.stringify({ ...store.choice, p: 0, width: innerWidth });
  if (computed !== of) {
    result = compute();
    drawTraining(result);
  }
  computed = of;
  drawWeights(result.sides);
  drawTables(result.sides);
  performance.measure("draw", { start: began });
  byId("drawn").textContent = `Drawn in ${Math.round(performance.now() - began)} ms.`;
}

function redraw() {
  if (!waiting) requestAnimationFrame(draw);
  waiting = true;
}

// Browsers refuse many changes of the address in a short time.
function remember() {
  remembering = undefined;
  history.replaceState(null, "", link.toHash(store.choice));
}

function changed() {
  remembering ??= setTimeout(remember, 200);
  byId("status").textContent = "";
  redraw();
}

function readLink() {
  const read = link.fromHash(location.hash);
  store.choice = read.choice;
  byId("status").textContent = read.problems.join(" ");
}

async function copyLink() {
  remember();
  let says = "The link is in the address bar.";
  try {
    await navigator.clipboard.writeText(location.href);
    says = "Copied.";
  } catch {
    // Browsers refuse the clipboard to some pages on disk.
  }
  if (!link.fitsLink(store.choice.start)) says += " The list of solve rates is too long for it.";
  byId("status").textContent = says;
}

function begin() {
  const reader = element("div");
  byId("reading").append(reader, element("div", { class: "scroll", id: "at-p" }));
  const scroll = { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of the weights" };
  byId("values").append(element("div", scroll));
  readLink();
  controls = makeControls(store, reader);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("copy").addEventListener("click", copyLink);
  byId("reset").addEventListener("click", () => {
    store.choice = link.initialChoice();
    changed();
  });
  byId("csv-weights").addEventListener("click", () => download("weights.csv", weightsCsv(result)));
  byId("csv-training").addEventListener("click", () => download("training.csv", trainingCsv(result)));
  addEventListener("hashchange", () => {
    readLink();
    redraw();
  });
  draw();
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) redraw();
    width = innerWidth;
  });
}

begin();
