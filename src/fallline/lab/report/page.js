"use strict";
const narrow = innerWidth < 600;
const config = JSON.parse(document.getElementById("theme").textContent);
config.axisX.titleLimit = narrow ? 280 : 700;
const views = [];

for (const data of document.querySelectorAll("script[data-figure]")) {
  const name = data.dataset.figure;
  vegaEmbed(document.getElementById(name), JSON.parse(data.textContent), {
    actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
    renderer: "svg",
    scaleFactor: { png: 3 },
    downloadFileName: `fallline-${document.body.dataset.name}-${name}`,
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

const folded = [...document.querySelectorAll(".more")];
let opened = [];
addEventListener("beforeprint", () => {
  opened = folded.filter((details) => !details.open);
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});
