// The controls: each makes its elements and has `show()`, which makes them say what the choice has.

import { element, shown } from "./chart.js";
import * as dynamics from "./dynamics.js";
import * as link from "./link.js";
import * as weights from "./weights.js";

const byId = (id) => document.getElementById(id);

function slider(store, place, id, name, { least, most, step, values, says }, get, set) {
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
    store.changed();
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

function advantageControl(store, side) {
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
    const parameters = link.initialParameters(advantage, store.choice.G);
    store.choice[side] = { id: advantage.id, parameters };
    store.changed();
  });
  function show() {
    const { id } = store.choice[side];
    const advantage = weights.advantageById(id);
    select.value = id;
    if (drawn !== id) {
      drawn = id;
      sliders.replaceChildren();
      own = advantage.parameters.map((parameter) => slider(
        store, sliders, `${side}-${parameter.id}`, parameter.symbol,
        { ...parameter, most: () => link.largest(parameter, store.choice.G) },
        () => store.choice[side].parameters[parameter.id],
        (value) => (store.choice[side].parameters[parameter.id] = value),
      ));
    }
    const { average } = store.choice[side].parameters;
    const now = advantage.follows ? ` Drawn at α = ${shown(weights.alphaFromSolveRate(average), 3)}.` : "";
    formula.textContent = `A = ${advantage.formula}.${now}`;
    own.forEach((control) => control.show());
  }
  return { show };
}

function numberControl(store, place, id, name, bounds) {
  const set = (value) => (store.choice[id] = value);
  return slider(store, place, id, name, bounds, () => store.choice[id], set);
}

function groupControl(store) {
  const card = byId("card-group");
  const size = numberControl(store, card, "G", "G, rollouts per prompt", { values: link.GROUP_SIZES });
  const box = element("input", { type: "checkbox", id: "equal", "aria-describedby": "equal-hint" });
  const hint = element("p", { class: "hint", id: "equal-hint" });
  card.append(element("div", { class: "choice field" },
    element("label", {}, box, "Scale B to the mean mass of A")), hint);
  box.addEventListener("change", () => {
    store.choice.equal = box.checked;
    store.changed();
  });
  function show() {
    // Parameters that the group is too small for become the largest allowed.
    for (const side of ["A", "B"]) {
      for (const parameter of weights.advantageById(store.choice[side].id).parameters) {
        const given = store.choice[side].parameters;
        given[parameter.id] = Math.min(given[parameter.id], link.largest(parameter, store.choice.G));
      }
    }
    size.show();
    box.checked = store.choice.equal;
  }
  return { show };
}

function startControl(store) {
  const card = byId("card-start");
  const radio = (value, name) => {
    const input = element("input", { type: "radio", name: "start", value, id: `start-${value}` });
    card.append(element("div", { class: "choice field" }, element("label", {}, input, name)));
    return input;
  };
  const ofBeta = radio("beta", "Beta density");
  const ofList = radio("list", "A list of your own");
  const beta = element("div");
  const ends = ["a", "b"].map((id) => slider(store, beta, id, id, link.NUMBERS[id],
    () => store.choice.start[id] ?? 1, (value) => (store.choice.start[id] = value)));
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
      store.choice.start = typed = { kind: "list", ...dynamics.listStart(text.value) };
      error.textContent = "";
      store.changed();
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
    store.choice.start = { kind: "beta", a: 1, b: 1 };
    store.changed();
  });
  ofList.addEventListener("change", () => {
    if (!text.value) text.value = "0 0.05 0.1 0.1 0.25 0.5 0.8";
    listOpen = true;
    show();
    read();
  });
  function show() {
    if (last !== store.choice.start) listOpen = store.choice.start.kind === "list";
    last = store.choice.start;
    ofBeta.checked = !listOpen;
    ofList.checked = listOpen;
    beta.hidden = listOpen;
    list.hidden = !listOpen;
    if (!listOpen) {
      ends.forEach((control) => control.show());
      error.textContent = "";
    } else if (store.choice.start.counts && store.choice.start !== typed) {
      text.value = store.choice.start.counts.flatMap(([p, n]) => Array(n).fill(p)).join(" ");
      typed = store.choice.start;
      error.textContent = "";
    }
    if (!error.textContent) text.removeAttribute("aria-invalid");
    const { start } = store.choice;
    const number = start.counts?.reduce((sum, [, n]) => sum + n, 0);
    const meanSolveRate = start.counts ? dynamics.mean(start) : start.a / (start.a + start.b);
    const of = start.counts ? `${number} ${number === 1 ? "prompt" : "prompts"}, mean` : "Mean";
    summary.textContent = `${of} solve rate ${shown(meanSolveRate, 3)}.`;
  }
  return { show };
}

// Makes all controls. `store` is {choice, changed()}: the choice, which they change, and whom to
// tell. `reader` is the place of the slider beside the table.
export function makeControls(store, reader) {
  const training = byId("card-training");
  const { steps, eta, p } = link.NUMBERS;
  return [
    groupControl(store),
    ...["A", "B"].map((side) => advantageControl(store, side)),
    startControl(store),
    numberControl(store, training, "steps", "Steps", steps),
    numberControl(store, training, "eta", "η, logit change per step", eta),
    numberControl(store, training, "k", "k of pass@k", { values: link.ATTEMPTS }),
    numberControl(store, reader, "p", "Read values at solve rate p", {
      ...p, says: "Or move the pointer over a figure with a solve rate.",
    }),
  ];
}
