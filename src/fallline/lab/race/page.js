"use strict";
const scene = JSON.parse(document.getElementById("scene").textContent);
const stage = document.getElementById("stage");
const pen = stage.getContext("2d");
const [play, slider, now, speed] = ["play", "step", "now", "speed"].map((id) => document.getElementById(id));
const hidden = new Set();
const [[left, right], [low, high]] = scene.domain;
const darkScreen = matchMedia("screen and (prefers-color-scheme: dark)");
let printing = false;
let playing = false, at = scene.steps, last = 0, scale = 1;

// A colour of the light page as it is drawn now; a dark screen has other colours, and print stays light.
const shade = (colour) => (darkScreen.matches && !printing ? scene.dark[colour.toLowerCase()] ?? colour : colour);

const pixel = ([x, y]) => [(x - left) * scale, (high - y) * scale];

function trace(points) {
  pen.beginPath();
  points.forEach((point, k) => (k ? pen.lineTo : pen.moveTo).apply(pen, pixel(point)));
}

function line(points, colour, width, dash = []) {
  pen.setLineDash(dash);
  pen.lineWidth = width;
  pen.strokeStyle = shade(colour);
  trace(points);
  pen.stroke();
  pen.setLineDash([]);
}

function disc(point, radius, fill, rim) {
  pen.beginPath();
  pen.arc(...pixel(point), radius, 0, 2 * Math.PI);
  pen.fillStyle = shade(fill);
  pen.fill();
  if (rim) {
    pen.lineWidth = 2;
    pen.strokeStyle = shade(rim);
    pen.stroke();
  }
}

function mark(point, shape) {
  const [x, y] = pixel(point);
  const drawn = new Path2D(shape);
  pen.save();
  pen.translate(x, y);
  for (const [width, colour] of [[5, "white"], [2, "#1c2024"]]) {
    pen.lineWidth = width;
    pen.strokeStyle = shade(colour);
    pen.stroke(drawn);
  }
  pen.restore();
}

function draw() {
  const step = Math.floor(at);
  pen.fillStyle = shade("white");
  pen.fillRect(0, 0, (right - left) * scale, (high - low) * scale);
  for (const contour of scene.contours) line(contour, "#c3ccd6", 1);
  scene.runs.forEach((run, index) => {
    if (hidden.has(index)) return;
    const points = run.points.slice(0, step + 1);
    line(points, run.colour, 1.8, run.dash);
    for (const point of points) disc(point, 1.8, run.colour);
  });
  for (const saddle of scene.saddles) mark(saddle, "M0,-7L7,0L0,7L-7,0Z");
  for (const minimum of scene.minima) mark(minimum, "M-7,0H7M0,-7V7");
  disc(scene.start, 5, "white", "#1c2024");
  scene.runs.forEach((run, index) => {
    if (!hidden.has(index)) disc(run.points[Math.min(step, run.points.length - 1)], 5.5, run.colour, "white");
  });
  slider.value = step;
  now.textContent = `step ${step} of ${scene.steps}`;
  for (const cell of document.querySelectorAll("[data-value]")) {
    cell.textContent = scene.runs[cell.dataset.value].values[step] ?? "diverged";
  }
  stage.dataset.step = step;
}

function size() {
  const ratio = devicePixelRatio || 1;
  scale = stage.clientWidth / (right - left);
  stage.width = Math.round(stage.clientWidth * ratio);
  stage.height = Math.round((high - low) * scale * ratio);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  draw();
}

function tick(time) {
  if (!playing) return;
  const passed = Math.max(time - last, 0); // the time stamp of a frame may be earlier than the click that started the animation
  at = Math.min(at + (passed / 1000) * Number(speed.value), scene.steps);
  last = time;
  draw();
  if (at >= scene.steps) pause();
  else requestAnimationFrame(tick);
}

function pause() {
  playing = false;
  play.textContent = "Play";
}

function start() {
  if (at >= scene.steps) at = 0;
  playing = true;
  play.textContent = "Pause";
  last = performance.now();
  requestAnimationFrame(tick);
}

play.addEventListener("click", () => (playing ? pause() : start()));
slider.addEventListener("input", () => {
  pause();
  at = Number(slider.value);
  draw();
});
addEventListener("keydown", (event) => {
  if (event.key !== " " || ["BUTTON", "SELECT"].includes(event.target.tagName)) return;
  event.preventDefault();
  play.click();
});
for (const button of document.querySelectorAll("button[data-run]")) {
  button.addEventListener("click", () => {
    const run = Number(button.dataset.run);
    if (!hidden.delete(run)) hidden.add(run);
    button.setAttribute("aria-pressed", String(!hidden.has(run)));
    draw();
  });
}
addEventListener("resize", size);
darkScreen.addEventListener("change", draw);
for (const [event, state] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(event, () => {
    printing = state;
    draw();
  });
}
size();
if (!matchMedia("(prefers-reduced-motion: reduce)").matches) start();
