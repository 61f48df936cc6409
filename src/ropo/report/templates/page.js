"use strict";
// Draws the figures, and lets the reader choose data set, methods, seed and theme. Text goes in as text, never as HTML.
const figures = JSON.parse(document.getElementById("figures").textContent);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const drawn = new Set();

const methodsShown = () => new Set(all("input[name=method]:checked").map((box) => box.value));
const seedShown = () => document.getElementById("seed")?.value ?? "all";

function colours() {
  const style = getComputedStyle(document.getElementById("probe"));
  return { text: style.color, line: style.borderTopColor, raised: style.backgroundColor };
}

// A text in lines of so many pixels, at eight a letter; plotly cuts what is longer than its figure.
function wrapped(text, pixels) {
  const most = pixels / 8, lines = [""];
  for (const word of text.split(" ")) {
    const line = `${lines.at(-1)} ${word}`.trim();
    if (lines.at(-1) && unescaped(line).length > most) lines.push(word);
    else lines[lines.length - 1] = line;
  }
  return lines.join("<br>");
}

const titled = (axis, pixels) => (axis?.title?.text ? { ...axis, title: { ...axis.title, text: wrapped(axis.title.text, pixels) } } : axis);

// Axes whose titles fit into a box: below names of methods, which take up to half of it, less is left than below numbers.
function fitted({ xaxis, yaxis }, { clientWidth, clientHeight }) {
  const names = yaxis?.categoryarray?.map((name) => wrapped(name, 0.4 * clientWidth));
  const longest = Math.max(8, ...(names ?? []).flatMap((name) => name.split("<br>")).map((line) => unescaped(line).length));
  const named = names ? { ...yaxis, tickmode: "array", tickvals: yaxis.categoryarray, ticktext: names } : yaxis;
  return { xaxis: titled(xaxis, clientWidth - 8 * longest), yaxis: titled(named, clientHeight - 64) };
}

function themed(layout, box) {
  const { text, line, raised } = colours();
  const axis = (given) => ({ gridcolor: line, zerolinecolor: line, linecolor: line, ...given });
  const { xaxis, yaxis } = fitted(layout, box);
  return {
    ...layout,
    xaxis: axis(xaxis),
    yaxis: axis(yaxis),
    font: { color: text, family: "system-ui, sans-serif", size: 12 },
    hoverlabel: { bgcolor: raised, bordercolor: line, font: { color: text }, namelength: -1 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 8, r: 8, t: 12, b: 8 },
    dragmode: false,
  };
}

function isShown(trace, methods, seed) {
  const { method, seed: own } = trace.meta ?? {};
  return (method === undefined || methods.has(method)) && (seed === "all" || (own ?? null) === null || String(own) === seed);
}

function viewOf(box) {
  return figures[box.id][all("select", box.parentElement)[0]?.selectedIndex ?? 0];
}

function draw(box) {
  const methods = methodsShown(), seed = box.dataset.everySeed === undefined ? seedShown() : "all";
  const { data, layout } = viewOf(box);
  const traces = data.map((trace) => ({ ...trace, visible: isShown(trace, methods, seed) }));
  Plotly.react(box, traces, themed(layout, box), { responsive: true, displayModeBar: false, showTips: false });
  fillNumbers(box.parentElement.querySelector(".numbers"), traces, layout);
  drawn.add(box);
}

// The numbers of a figure as a table: for keyboards and screen readers, which cannot hover.
function fillNumbers(details, traces, layout) {
  const place = details.querySelector("tbody");
  if (!details.open) return place.replaceChildren();
  const rows = [];
  const ends = (bars, at, value) =>
    bars?.array ? ` [${short(value - bars.arrayminus[at])}, ${short(value + bars.array[at])}]` : "";
  for (const trace of traces.filter((each) => each.visible && each.hoverinfo !== "skip"))
    trace.x.forEach((x, at) => {
      const row = document.createElement("tr");
      const cells = [trace.text?.[at] ?? trace.name, short(x) + ends(trace.error_x, at, x), short(trace.y[at]) + ends(trace.error_y, at, trace.y[at])];
      cells.forEach((cell, number) => {
        const element = document.createElement(number ? "td" : "th");
        element.textContent = unescaped(cell);
        row.append(element);
      });
      rows.push(row);
    });
  place.replaceChildren(...rows);
  const [, x, y] = all("thead th", details);
  x.textContent = unescaped(layout.xaxis?.title?.text ?? "");
  y.textContent = unescaped(layout.yaxis?.title?.text ?? "");
}

function short(value) {
  return value === null ? "–" : typeof value === "number" ? String(Number(value.toPrecision(5))) : value;
}

function unescaped(text) {
  return String(text).replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
}

const observer = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting && !drawn.has(entry.target)).forEach((entry) => draw(entry.target)),
  { rootMargin: "600px" },
);
all(".plot").forEach((box) => observer.observe(box));
addEventListener("beforeprint", () => all(".plot").filter((box) => box.offsetParent && !drawn.has(box)).forEach(draw));
const redraw = () => drawn.forEach((box) => (box.offsetParent ? draw(box) : forget(box)));

// A hidden figure has no width; it is drawn again when it comes into view.
function forget(box) {
  Plotly.purge(box);
  drawn.delete(box);
  observer.unobserve(box);
  observer.observe(box);
}

function filterParts() {
  const methods = methodsShown(), seed = seedShown();
  all("[data-method]").forEach((part) => {
    part.hidden = !methods.has(part.dataset.method);
  });
  all(".answer").forEach((part) => {
    const first = seed === "all" ? part.dataset.first !== undefined : part.dataset.seed === seed;
    part.hidden ||= !first && part.dataset.always === undefined;
  });
}

all("figure select").forEach((select) => select.addEventListener("change", () => draw(select.closest("figure").querySelector(".plot"))));
all(".numbers").forEach((details) => details.addEventListener("toggle", () => draw(details.closest("figure").querySelector(".plot"))));
all("input[name=method], #seed").forEach((input) =>
  input.addEventListener("change", () => {
    filterParts();
    redraw();
  }),
);

function showData(key) {
  all(".panel").forEach((panel) => (panel.hidden = panel.id !== key));
  redraw();
}
all("input[name=data]").forEach((radio) => radio.addEventListener("change", () => showData(radio.value)));

const themes = ["light dark", "light", "dark"], names = ["as the system", "light", "dark"];
const themeButton = document.getElementById("theme");
function setTheme(number) {
  document.documentElement.style.colorScheme = themes[number];
  themeButton.dataset.number = number;
  themeButton.textContent = `Theme: ${names[number]}`;
  redraw();
}
themeButton.addEventListener("click", () => setTheme((Number(themeButton.dataset.number) + 1) % themes.length));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

// A link to what made a number opens what it is folded into.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  const panel = target.closest(".panel");
  if (panel?.hidden) {
    const radio = document.querySelector(`input[name=data][value="${panel.id}"]`);
    radio.checked = true;
    showData(radio.value);
  }
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", openTarget);

all(".needs-script").forEach((part) => (part.hidden = false));
if (matchMedia("(max-width: 40rem)").matches) document.getElementById("methods").open = false;
const first = document.querySelector("input[name=data]:checked");
if (first) showData(first.value);
setTheme(0);
filterParts();
openTarget();
