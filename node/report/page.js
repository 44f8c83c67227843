"use strict";
// Values are read back from the paths' pixels and the scales in the data attributes of each chart.
function figures(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 0.001 && size < 1e6 ? String(+value.toPrecision(4)) : value.toExponential(2);
}

function prepare(svg) {
  const list = (name) => svg.dataset[name].split(",");
  const [x0, x1] = list("x").map(Number), [y0, y1] = list("y").map(Number);
  const [left, right, top, bottom] = list("box").map(Number), [timeUnit, unit] = list("units");
  const log = svg.dataset.log === "1";
  const lines = [...svg.querySelectorAll(".line")].map((path) => ({
    path,
    points: path.getAttribute("d").slice(1).replace("h.01", "").split(/[ML]/).map((pair) => pair.split(",").map(Number)),
  }));
  const time = (px) => x0 + ((px - left) / (right - left)) * (x1 - x0);
  const value = (py) => {
    const share = (bottom - py) / (bottom - top);
    return log ? y0 * (y1 / y0) ** share : y0 + share * (y1 - y0);
  };
  return { svg, lines, left, right, top, bottom, time, value, timeUnit, unit };
}

function nearest(points, px) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < px) low = middle; else high = middle;
  }
  return px - points[low][0] < points[high][0] - px ? points[low] : points[high];
}

function shape(name, attributes) {
  const element = document.createElementNS(document.querySelector("svg").namespaceURI, name);
  for (const [key, text] of Object.entries(attributes)) element.setAttribute(key, text);
  return element;
}

function hover(chart, event) {
  const layer = chart.svg.querySelector(".hover"), tip = chart.svg.nextElementSibling;
  const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.svg.getScreenCTM().inverse());
  layer.replaceChildren();
  tip.hidden = true;
  if (place.x < chart.left - 4 || place.x > chart.right + 4) return;
  const found = chart.lines
    .filter(({ path }) => !path.classList.contains("off"))
    .map(({ path, points }) => ({ path, point: nearest(points, place.x) }))
    .filter(({ point }) => Math.abs(point[0] - place.x) < 40)
    .sort((a, b) => a.point[1] - b.point[1]);
  if (!found.length) return;
  layer.append(shape("line", { class: "cross", x1: place.x, x2: place.x, y1: chart.top, y2: chart.bottom }));
  const table = document.createElement("table");
  for (const { path, point } of found.slice(0, 12)) {
    const colour = [...path.classList].find((name) => /^(c\d|ink)$/.test(name));
    layer.append(shape("circle", { class: "dot " + colour, cx: point[0], cy: point[1], r: 4 }));
    const row = table.insertRow();
    row.insertCell().append(Object.assign(document.createElement("i"), { className: colour }));
    row.insertCell().textContent = path.dataset.name;
    row.insertCell().textContent = figures(chart.value(point[1]));
  }
  const head = document.createElement("b");
  head.textContent = figures(chart.time(place.x)) + " " + chart.timeUnit;
  tip.replaceChildren(head, table);
  tip.hidden = false;
  const card = tip.parentElement.getBoundingClientRect(), x = event.clientX - card.left;
  tip.style.left = (x > card.width / 2 ? x - tip.offsetWidth - 16 : x + 16) + "px";
  tip.style.top = Math.max(0, event.clientY - card.top - tip.offsetHeight / 2) + "px";
}

for (const svg of document.querySelectorAll("svg.chart")) {
  const chart = prepare(svg);
  svg.querySelectorAll(".line > title").forEach((title) => title.remove()); // the tip says more
  svg.addEventListener("pointermove", (event) => hover(chart, event));
  svg.addEventListener("pointerleave", () => {
    svg.querySelector(".hover").replaceChildren();
    svg.nextElementSibling.hidden = true;
  });
}

function show(node, on) {
  for (const path of document.querySelectorAll(".line[data-node]"))
    if (path.dataset.node === node) path.classList.toggle("off", !on);
}

const buttons = [...document.querySelectorAll(".legend button")];
for (const button of buttons) {
  const set = (each, on) => {
    each.setAttribute("aria-pressed", on);
    show(each.dataset.node, on);
  };
  button.addEventListener("click", () => set(button, button.getAttribute("aria-pressed") === "false"));
  button.addEventListener("dblclick", () => {
    const alone = buttons.every((each) => each === button || each.getAttribute("aria-pressed") === "false");
    for (const each of buttons) set(each, alone || each === button);
  });
}
