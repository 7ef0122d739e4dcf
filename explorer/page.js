// The page: controls, the choice they hold, and the figures drawn from it.

import { axis, axisOf, drawChart, element, shown, subscripted, ticks } from "./chart.js";
import * as dynamics from "./dynamics.js";
import * as link from "./link.js";
import * as weights from "./weights.js";

const GRID = Array.from({ length: 201 }, (_, i) => i / 200);
const SIDES = ["A", "B"];
const byId = (id) => document.getElementById(id);

let choice;

// Controls. Each has `show()`, which makes it say what the choice has.

const controls = [];

function slider(place, id, name, { least, most, step, values, says }, get, set) {
  const input = element("input", { type: "range", id });
  const output = element("output", { for: id });
  const label = element("label", { for: id }, element("span", {}, name), output);
  const field = element("div", { class: "field" }, label, input);
  if (says) {
    const hint = element("p", { class: "hint", id: `${id}-hint` }, says);
    input.setAttribute("aria-describedby", hint.id);
    field.append(hint);
  }
  input.addEventListener("input", () => {
    const value = Number(input.value);
    set(values ? values[value] : value);
    changed();
  });
  function show() {
    input.min = values ? 0 : least;
    input.max = values ? values.length - 1 : typeof most === "function" ? most() : most;
    input.step = values ? 1 : step;
    input.value = values ? values.indexOf(get()) : get();
    output.value = String(get());
    input.setAttribute("aria-valuetext", String(get()));
  }
  place.append(field);
  return { show };
}

function advantageControl(side) {
  const card = byId(`card-${side}`);
  const select = element("select", { id: `${side}-id`, "aria-label": `Advantage ${side}` });
  for (const { id, name } of weights.ADVANTAGES) select.append(element("option", { value: id }, name));
  const formula = element("p", { class: "hint" });
  const sliders = element("div");
  card.append(select, formula, sliders);
  let drawn;
  let own = [];
  select.addEventListener("change", () => {
    const advantage = weights.advantageById(select.value);
    choice[side] = { id: advantage.id, parameters: link.initialParameters(advantage, choice.G) };
    changed();
  });
  function show() {
    const { id } = choice[side];
    const advantage = weights.advantageById(id);
    select.value = id;
    if (drawn !== id) {
      drawn = id;
      sliders.replaceChildren();
      own = advantage.parameters.map((parameter) => slider(
        sliders, `${side}-${parameter.id}`, parameter.symbol,
        { ...parameter, most: () => link.largest(parameter, choice.G) },
        () => choice[side].parameters[parameter.id],
        (value) => (choice[side].parameters[parameter.id] = value),
      ));
    }
    const { average } = choice[side].parameters;
    const now = advantage.follows ? ` Drawn at α = ${shown(weights.alphaFromSolveRate(average), 3)}.` : "";
    formula.textContent = `A = ${advantage.formula}.${now}`;
    own.forEach((control) => control.show());
  }
  return { show };
}

function numberControl(place, id, name, bounds) {
  return slider(place, id, name, bounds, () => choice[id], (value) => (choice[id] = value));
}

function groupControl() {
  const card = byId("card-group");
  const size = numberControl(card, "G", "G, rollouts per prompt", { values: link.GROUP_SIZES });
  const box = element("input", { type: "checkbox", id: "equal", "aria-describedby": "equal-hint" });
  const hint = element("p", { class: "hint", id: "equal-hint" });
  card.append(element("div", { class: "choice field" },
    element("label", {}, box, "Scale B to the mean mass of A")), hint);
  box.addEventListener("change", () => {
    choice.equal = box.checked;
    changed();
  });
  function show() {
    // Parameters that the group is too small for become the largest allowed.
    for (const side of SIDES) {
      for (const parameter of weights.advantageById(choice[side].id).parameters) {
        const given = choice[side].parameters;
        given[parameter.id] = Math.min(given[parameter.id], link.largest(parameter, choice.G));
      }
    }
    size.show();
    box.checked = choice.equal;
  }
  return { show };
}

function startControl() {
  const card = byId("card-start");
  const radio = (value, name) => {
    const input = element("input", { type: "radio", name: "start", value, id: `start-${value}` });
    card.append(element("div", { class: "choice field" }, element("label", {}, input, name)));
    return input;
  };
  const ofBeta = radio("beta", "Beta density");
  const ofList = radio("list", "A list of your own");
  const beta = element("div");
  const ends = ["a", "b"].map((id) => slider(beta, id, id, link.NUMBERS[id],
    () => choice.start[id] ?? 1, (value) => (choice.start[id] = value)));
  const text = element("textarea", {
    id: "list", rows: 3, spellcheck: "false", "aria-describedby": "list-hint list-error",
  });
  const file = element("input", { type: "file", id: "file", accept: ".txt,.csv,text/plain,text/csv" });
  const error = element("p", { class: "error hint", id: "list-error", role: "alert" });
  const list = element("div", {},
    element("div", { class: "field" }, element("label", { for: "list" }, "Solve rates"), text),
    element("div", { class: "field" }, element("label", { for: "file" }, "Or a file of them"), file),
    element("p", { class: "hint", id: "list-hint" },
      "One number from 0 to 1 for each prompt. Prompts at 0 and 1 stay where they are. "
      + "Nothing leaves this page."), error);
  const summary = element("p", { class: "hint", id: "start-summary" });
  card.append(beta, list, summary);
  let listOpen = false;
  let typed; // the start that the text says
  let last;

  function read() {
    try {
      choice.start = typed = { kind: "list", ...dynamics.listStart(text.value) };
      error.textContent = "";
      changed();
    } catch (problem) {
      error.textContent = `${problem.message} The figures still show the last start.`;
      text.setAttribute("aria-invalid", "true");
    }
  }
  text.addEventListener("input", read);
  file.addEventListener("change", async () => {
    if (!file.files.length) return;
    text.value = await file.files[0].text();
    read();
  });
  ofBeta.addEventListener("change", () => {
    choice.start = { kind: "beta", a: 1, b: 1 };
    changed();
  });
  ofList.addEventListener("change", () => {
    if (!text.value) text.value = "0 0.05 0.1 0.1 0.25 0.5 0.8";
    listOpen = true;
    show();
    read();
  });
  function show() {
    if (last !== choice.start) listOpen = choice.start.kind === "list";
    last = choice.start;
    ofBeta.checked = !listOpen;
    ofList.checked = listOpen;
    beta.hidden = listOpen;
    list.hidden = !listOpen;
    if (!listOpen) {
      ends.forEach((control) => control.show());
      error.textContent = "";
    } else if (choice.start.counts && choice.start !== typed) {
      text.value = choice.start.counts.flatMap(([p, n]) => Array(n).fill(p)).join(" ");
      typed = choice.start;
      error.textContent = "";
    }
    if (!error.textContent) text.removeAttribute("aria-invalid");
    const { start } = choice;
    const number = start.counts?.reduce((sum, [, n]) => sum + n, 0);
    const of = start.counts ? `${number} ${number === 1 ? "prompt" : "prompts"}, mean` : "Mean";
    summary.textContent = `${of} solve rate ${shown(dynamics.mean(startOf(start)), 3)}.`;
  }
  return { show };
}

const startOf = (start) =>
  start.kind === "beta" ? dynamics.betaStart(start.a, start.b) : start;

// What the choice gives: for each side its name, decomposition and path.

function shortName({ id, parameters }) {
  const advantage = weights.advantageById(id);
  const values = advantage.parameters.map((parameter) => parameters[parameter.id]);
  const short = advantage.name.split(",")[0].replace("Synthesized", "Synth.")
    .replace("ikelihood", "ikel.").replace("Leave-one-out", "LOO").replace(" (QAE)", "");
  return advantage.follows || !values.length ? short : `${short}(${values.join(", ")})`;
}

function compute() {
  const start = startOf(choice.start);
  const { G, steps, eta: stepSize, k } = choice;
  const sides = SIDES.map((side) => {
    const advantage = weights.advantageById(choice[side].id);
    const { parameters } = choice[side];
    const parts = weights.decompose(advantage, parameters, G);
    const path = dynamics.simulate(advantage, parameters, G, start, { steps, stepSize, k });
    return { side, name: shortName(choice[side]), parts, path, times: "" };
  });
  const [a, b] = sides.map(({ parts }) => weights.meanMass(parts, start));
  if (choice.equal && a > 0 && b > 0) {
    const { id, parameters } = choice.B;
    sides[1].times = ` × ${shown(a / b, 3)}`;
    sides[1].parts = weights.decompose(weights.advantageById(id), parameters, G, a / b);
  }
  const factor = a > 0 && b > 0 ? `B is times ${shown(a / b, 3)}.` : "Not possible: it is not above 0.";
  byId("equal-hint").textContent = "A factor on an advantage acts like one on the learning rate."
    + (choice.equal ? ` ${factor}` : "");
  return { start, sides };
}

// Figures

const P_AXIS = axis("solve rate p", [0, 0.25, 0.5, 0.75, 1]);

function readAt(p) {
  choice.p = Math.round(p * 100) / 100;
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
  const rule = { rule: choice.p, onPoint: readAt };
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
  const { steps, k } = choice;
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
    const jumps = choice.start.kind === "list";
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
  const rows = COLUMNS.map(([name, of]) => [name, ...sides.map(({ parts }) => shown(of(parts, choice.p)))]);
  rows.push(["peak of m_S, p", ...sides.map(({ parts }) => shown(weights.peakSolveRate(parts), 3))]);
  rows.push(["N_eff/N at start", ...sides.map(({ path }) => shown(path.share[0]))]);
  const names = sides.map(({ side, name, times }) => `${side}: ${name}${times}`);
  byId("at-p").replaceChildren(table(`At solve rate p = ${choice.p.toFixed(2)}`, ["value", ...names], rows));

  const some = Array.from({ length: 21 }, (_, i) => i / 20);
  const head = ["p", ...sides.flatMap(({ side }) => COLUMNS.map(([name]) => `${side} ${name}`))];
  const full = some.map((p) => [p.toFixed(2),
    ...sides.flatMap(({ parts }) => COLUMNS.map(([, of]) => shown(of(parts, p))))]);
  byId("values").querySelector(".scroll").replaceChildren(
    table(`${names.join("; ")}; G = ${choice.G}`, head, full));
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
  const fields = { passAt1: "pass_at_1", passAtK: `pass_at_${choice.k}`, share: "effective_share" };
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
  const of = JSON.stringify({ ...choice, p: 0, width: innerWidth });
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
  history.replaceState(null, "", link.toHash(choice));
}

function changed() {
  remembering ??= setTimeout(remember, 200);
  byId("status").textContent = "";
  redraw();
}

function readLink() {
  const read = link.fromHash(location.hash);
  choice = read.choice;
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
  if (!link.fitsLink(choice.start)) says += " The list of solve rates is too long for it.";
  byId("status").textContent = says;
}

function begin() {
  const training = byId("card-training");
  const { steps, eta, p } = link.NUMBERS;
  const reader = element("div");
  byId("reading").append(reader, element("div", { class: "scroll", id: "at-p" }));
  const scroll = { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of the weights" };
  byId("values").append(element("div", scroll));
  readLink();
  controls.push(
    groupControl(),
    ...SIDES.map(advantageControl),
    startControl(),
    numberControl(training, "steps", "Steps", steps),
    numberControl(training, "eta", "η, logit change per step", eta),
    numberControl(training, "k", "k of pass@k", { values: link.ATTEMPTS }),
    numberControl(reader, "p", "Read values at solve rate p", {
      ...p, says: "Or move the pointer over a figure with a solve rate.",
    }),
  );
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("copy").addEventListener("click", copyLink);
  byId("reset").addEventListener("click", () => {
    choice = link.initialChoice();
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
