"use strict";
const narrow = innerWidth < 600;
const font = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
const config = {
  font,
  background: "white",
  axis: {
    labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500, labelColor: "#3d454d", titleColor: "#3d454d",
    gridColor: "#edf0f2", domainColor: "#aab2ba", tickColor: "#aab2ba", titlePadding: 8,
  },
  axisX: { labelOverlap: "greedy", labelSeparation: 8, titleLimit: narrow ? 280 : 700 },
  legend: { labelFontSize: 12 },
  view: { stroke: null },
};
const views = [];

for (const data of document.querySelectorAll("script[data-figure]")) {
  const name = data.dataset.figure;
  vegaEmbed(document.getElementById(name), JSON.parse(data.textContent), {
    actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
    renderer: "svg",
    scaleFactor: { png: 3 },
    downloadFileName: `fallline-${document.body.dataset.task}-${name}`,
    tooltip: { theme: "light" },
    config,
  }).then((drawn) => views.push(drawn.view), console.error);
}

const buttons = [...document.querySelectorAll("button[data-arm]")];
const hidden = new Set();
for (const button of buttons) {
  button.addEventListener("click", () => {
    const arm = button.dataset.arm;
    if (!hidden.delete(arm)) hidden.add(arm);
    for (const other of buttons) other.setAttribute("aria-pressed", String(!hidden.has(other.dataset.arm)));
    for (const view of views) view.signal("hidden", [...hidden]).runAsync();
  });
}
