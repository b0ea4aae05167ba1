// Draws the page's figures with plotly, in the page's own colours, and lets series be hidden in all panels of a figure.
"use strict";

const charts = JSON.parse(document.getElementById("charts").textContent);
const root = document.documentElement;
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const MARKS = ["circle", "square", "diamond", "triangle-up", "x", "triangle-down", "star", "hexagon", "cross", "pentagon"];
const COLOURS = 10;
const CONFIG = {
  responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
};
const hidden = new Map(); // of each figure, the names of series that are hidden

function colour(name) {
  return getComputedStyle(root).getPropertyValue(`--${name}`).trim();
}

function styled(trace, series) {
  const drawn = { ...trace, showlegend: false, visible: true };
  if (trace.type === "heatmap") {
    drawn.colorscale = [[0, colour("low")], [1, colour("high")]];
    drawn.colorbar = { thickness: 12, outlinewidth: 0, tickfont: { color: colour("ink") } };
    drawn.xgap = 1;
    drawn.ygap = 1;
    return drawn;
  }
  const { style } = series.find((each) => each.name === trace.series);
  const ink = colour(`s${style % COLOURS}`);
  drawn.name = trace.series;
  drawn.marker = { color: ink, symbol: MARKS[style % MARKS.length], size: 8 };
  drawn.line = { color: ink, width: 2, dash: DASHES[Math.floor(style / 2) % DASHES.length] };
  if (trace.bar) drawn.line = { color: ink, width: 14, dash: "solid" };
  if (trace.dotted) drawn.line = { color: colour("quiet"), width: 1, dash: "dot" };
  if (trace.error_y) drawn.error_y = { ...trace.error_y, color: ink, thickness: 1.5, width: 4 };
  return drawn;
}

function axis(given) {
  const ink = colour("ink"), line = colour("line");
  return {
    ...given, title: { text: (given || {}).title || "", font: { color: colour("quiet") }, standoff: 6 }, color: ink,
    gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true,
  };
}

function layout(panel) {
  const ink = colour("ink");
  return {
    height: 300, margin: { l: 56, r: 12, t: 30, b: 48 }, ...panel.layout,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("quiet"), activecolor: colour("accent") },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: ink } },
    // A finger scrolls the page; the buttons of the figure still zoom.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: axis(panel.layout.xaxis), yaxis: axis(panel.layout.yaxis),
  };
}

function mark(series) {
  const ink = `var(--s${series.style % COLOURS})`;
  const dash = { solid: "", dash: "6 3", dot: "2 2", dashdot: "6 2 2 2", longdash: "9 3" };
  const pattern = dash[DASHES[Math.floor(series.style / 2) % DASHES.length]];
  return `<svg width="26" height="10" aria-hidden="true"><line x1="0" x2="26" y1="5" y2="5" stroke="${ink}" stroke-width="3" ` +
    `stroke-dasharray="${pattern}"/></svg>`;
}

function draw(chart) {
  const section = document.getElementById(chart.key);
  const select = section.querySelector("select");
  const choice = chart.choices[select ? Number(select.value) : 0];
  const place = section.querySelector(".panels");
  for (const plot of place.querySelectorAll(".plot")) Plotly.purge(plot);
  place.replaceChildren();
  const away = hidden.get(chart.key);
  const plots = choice.panels.map((panel) => {
    const holder = document.createElement("div");
    holder.className = "panel";
    if (panel.title) {
      const title = document.createElement("h3");
      title.textContent = panel.title;
      holder.append(title);
    }
    const plot = document.createElement("div");
    plot.className = "plot";
    holder.append(plot);
    place.append(holder);
    return plot;
  });
  choice.panels.forEach((panel, index) => { // all are in their places by now, and as wide as they will be
    const traces = panel.traces.map((trace) => styled(trace, chart.series));
    for (const trace of traces) trace.visible = !away.has(trace.name);
    Plotly.newPlot(plots[index], traces, layout(panel), CONFIG);
  });
}

function legend(chart) {
  const place = document.getElementById(chart.key).querySelector(".legend");
  if (chart.series.length < 2) {
    place.remove();
    return;
  }
  for (const series of chart.series) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.innerHTML = mark(series);
    button.append(series.name);
    button.addEventListener("click", () => {
      const away = hidden.get(chart.key);
      if (!away.delete(series.name)) away.add(series.name);
      button.setAttribute("aria-pressed", String(!away.has(series.name)));
      draw(chart);
    });
    place.append(button);
  }
}

function drawAll() {
  for (const chart of charts) draw(chart);
}

for (const chart of charts) {
  hidden.set(chart.key, new Set());
  legend(chart);
  const select = document.getElementById(chart.key).querySelector("select");
  if (select) select.addEventListener("change", () => draw(chart));
}
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
addEventListener("beforeprint", () => {
  root.dataset.printing = "";
  for (const details of document.querySelectorAll(".chart details")) details.open = true;
  drawAll();
});
addEventListener("afterprint", () => {
  delete root.dataset.printing;
  drawAll();
});
root.dataset.drawn = "";
