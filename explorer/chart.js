// Line charts as inline SVG, drawn at the width of their place so that text keeps its size.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 236;
const TOP = 26;
const BOTTOM = 40;
const LINE = 15;

export function element(name, attributes = {}, ...children) {
  const node = name.startsWith("svg:")
    ? document.createElementNS(SVG, name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Values for a reader: fixed decimals that align, a true minus, signs for what is no number.
export function shown(value, decimals = 4) {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const text = Math.abs(value) < 1e5 ? value.toFixed(decimals) : value.toExponential(3);
  return text.replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
}

// Text in which the letters after an underscore are a subscript, as nodes of HTML or SVG.
export function subscripted(text, svg = false) {
  return text.split(/(_[A-Za-z]+)/).flatMap((part) => {
    if (!part.startsWith("_")) return part ? [part] : [];
    if (!svg) return [element("sub", {}, part.slice(1))];
    const lowered = element("svg:tspan", { dy: 3, class: "subscript" }, part.slice(1));
    return [lowered, element("svg:tspan", { dy: -3 }, "\u200b")];
  });
}

// At most `count` + 1 round numbers from least to most, both ends covered.
export function ticks(least, most, count = 4) {
  const rough = Math.max(most - least, 1e-9) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const [first, last] = [Math.floor(least / step + 1e-9), Math.ceil(most / step - 1e-9)];
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

const tickText = (value) => String(Number(value.toPrecision(6))).replace("-", "−");

// The y axis of values from all series, with 0 in it unless `free`; then it spans 0.02 at least.
export function axisOf(series, { label, free = false, least, most }) {
  const values = series.flatMap(({ points }) => points.map(([, y]) => y)).filter(Number.isFinite);
  const high = most ?? Math.max(...values, free ? -Infinity : 0);
  const low = least ?? Math.min(...values, free ? high - 0.02 : 0);
  const span = high > low ? [low, high] : [low, low + 1];
  return { label, ticks: ticks(...span).map((value) => ({ value, text: tickText(value) })) };
}

export const axis = (label, values, text = tickText) => ({
  label,
  ticks: values.map((value) => ({ value, text: text(value) })),
});

// Labels at wanted heights, moved apart where they would touch.
function spread(labels, least, most) {
  const sorted = [...labels].sort((s, t) => s.y - t.y);
  sorted.forEach((label, i) => {
    label.y = Math.max(label.y, i ? sorted[i - 1].y + LINE : least);
  });
  for (let i = sorted.length - 1, limit = most; i >= 0; i--, limit = sorted[i + 1].y - LINE) {
    sorted[i].y = Math.min(sorted[i].y, limit);
  }
}

// Draws into `figure`. A series is {points: [[x, y], …], side: "A" | "B" | "start", label, dashed};
// points that are not finite leave a gap. `labels` is "end", beside the last point, or "peak", above
// the largest. `rule` is an x to mark; `onPoint(x)` hears where the pointer is.
export function drawChart(figure, { width, title, x, y, series, labels = "end", rule, onPoint, note }) {
  const narrow = width < 420;
  const left = 12 + 7 * Math.max(...y.ticks.map(({ text }) => text.length));
  const short = labels === "end" && (narrow || series.some(({ label }) => label.length > 18));
  const labelOf = ({ label, side }) => (short && side !== "start" ? side : label);
  const longest = Math.max(...series.map((one) => labelOf(one).length));
  const right = labels === "end" ? 14 + 6.6 * longest : 14;
  const ends = ({ ticks: t }) => [t[0].value, t[t.length - 1].value];
  const [[x0, x1], [y0, y1]] = [ends(x), ends(y)];
  const toX = (value) => left + ((value - x0) / (x1 - x0)) * (width - left - right);
  const toY = (value) => HEIGHT - BOTTOM - ((value - y0) / (y1 - y0)) * (HEIGHT - BOTTOM - TOP);
  const titleId = `${figure.id}-title`;
  const svg = element("svg:svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-labelledby": titleId,
  });
  const text = (place, attributes, content) =>
    place.append(element("svg:text", attributes, ...subscripted(content, true)));
  svg.append(element("svg:title", { id: titleId }, title));
  for (const { value, text: content } of y.ticks) {
    const at = toY(value);
    svg.append(element("svg:line", { class: "grid", x1: left, x2: width - right, y1: at, y2: at }));
    text(svg, { class: "tick", x: left - 6, y: at + 4, "text-anchor": "end" }, content);
  }
  const every = narrow && x.ticks.length > 4 ? 2 : 1;
  for (const { value, text: content } of x.ticks.filter((_, i) => i % every === 0)) {
    const at = toX(value);
    const bottom = HEIGHT - BOTTOM;
    svg.append(element("svg:line", { class: "axis", x1: at, x2: at, y1: bottom, y2: bottom + 4 }));
    text(svg, { class: "tick", x: at, y: bottom + 17, "text-anchor": "middle" }, content);
  }
  text(svg, { class: "name", x: left - 6, y: 12, "text-anchor": "start" }, y.label);
  text(svg, { class: "name", x: width - right, y: HEIGHT - 6, "text-anchor": "end" }, x.label);
  svg.append(element("svg:line", {
    class: "axis", x1: left, x2: width - right, y1: toY(Math.max(y0, 0)), y2: toY(Math.max(y0, 0)),
  }));
  if (rule !== undefined) {
    svg.append(element("svg:line", {
      class: "rule", x1: toX(rule), x2: toX(rule), y1: TOP - 4, y2: HEIGHT - BOTTOM,
    }));
  }

  const placed = [];
  for (const one of series) {
    const { points, side, dashed } = one;
    const content = labelOf(one);
    const finite = points.filter(([, value]) => Number.isFinite(value));
    if (!finite.length) continue;
    let path = "";
    let open = false;
    for (const [px, py] of points) {
      if (Number.isFinite(py)) path += `${open ? "L" : "M"}${toX(px).toFixed(1)} ${toY(py).toFixed(1)}`;
      open = Number.isFinite(py);
    }
    svg.append(element("svg:path", { class: `line ${side}${dashed ? " dashed" : ""}`, d: path }));
    if (labels === "end") {
      const [px, py] = finite[finite.length - 1];
      svg.append(element("svg:circle", { class: `dot ${side}`, cx: toX(px), cy: toY(py), r: 2.5 }));
      placed.push({ side, content, x: toX(px) + 7, y: toY(py) + 4, anchor: "start" });
    } else {
      const peak = finite.reduce((best, point) => (
        Math.abs(point[1]) > Math.abs(best[1]) ? point : best));
      const at = toX(peak[0]);
      const middle = (left + width - right) / 2;
      svg.append(element("svg:circle", { class: `dot ${side}`, cx: at, cy: toY(peak[1]), r: 3 }));
      const inward = Math.abs(at - middle) < 60 ? 0 : at < middle ? 9 : -9;
      const anchor = inward > 0 ? "start" : inward < 0 ? "end" : "middle";
      const height = toY(peak[1]) + (peak[1] < 0 ? 17 : -7);
      placed.push({ side, content, x: at + inward, y: height, anchor });
    }
  }
  spread(placed, TOP - 8, HEIGHT - BOTTOM);
  for (const { side, content, x: at, y: height, anchor } of placed) {
    text(svg, { class: `label ${side}`, x: at, y: height, "text-anchor": anchor }, content);
  }
  if (onPoint) {
    svg.classList.add("readable");
    svg.addEventListener("pointermove", (event) => {
      const value = x0 + ((event.offsetX - left) / (width - left - right)) * (x1 - x0);
      onPoint(Math.min(Math.max(value, x0), x1));
    });
  }
  figure.querySelector("svg")?.remove();
  figure.querySelector(".note").textContent = note ?? "";
  figure.querySelector("h3").after(svg);
}
