"use strict";
// Enlarging, and arrow keys: left and right between versions of one book, up and down between books.

const rows = JSON.parse(document.getElementById("page-data").textContent);
const buttons = [...document.querySelectorAll("#pictures .cells")].map((row) => [...row.querySelectorAll("button")]);
const viewer = document.getElementById("viewer");
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
let at = [0, 0]; // row and column that are shown, or have the focus
let enlarged = at; // those that were shown last

function moved([down, right]) {
  const around = (place, count) => (place + count) % count;
  return [around(at[0] + down, rows.length), around(at[1] + right, rows[0].cells.length)];
}

function show(place) {
  at = enlarged = place;
  const [row, column] = place;
  const cell = rows[row].cells[column];
  const small = buttons[row][column].querySelector("img");
  const image = document.getElementById("viewer-image");
  image.src = small.src;
  image.alt = small.alt;
  document.getElementById("viewer-version").textContent = cell.label;
  document.getElementById("viewer-title").textContent = rows[row].title;
  document.getElementById("viewer-prompt").textContent = cell.prompt;
  document.getElementById("viewer-about").textContent = cell.about;
  if (!viewer.open) viewer.showModal();
}

buttons.forEach((line, row) =>
  line.forEach((button, column) => {
    button.addEventListener("click", () => show([row, column]));
    button.addEventListener("focus", () => (at = [row, column]));
  })
);

document.getElementById("pictures").addEventListener("keydown", (event) => {
  if (!(event.key in ARROWS) || event.altKey || event.ctrlKey || event.metaKey) return;
  const [row, column] = moved(ARROWS[event.key]);
  event.preventDefault();
  buttons[row][column].focus();
});

document.addEventListener("keydown", (event) => { // wherever the focus is: a caption that gets short loses it
  if (!viewer.open || !(event.key in ARROWS) || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  show(moved(ARROWS[event.key]));
});

viewer.querySelectorAll("[data-move]").forEach((button) =>
  button.addEventListener("click", () => show(moved(button.dataset.move.split(" ").map(Number))))
);
document.getElementById("viewer-close").addEventListener("click", () => viewer.close());
// The browser gives the focus back to the picture that was clicked; it belongs to the one that was shown last
viewer.addEventListener("close", () => buttons[enlarged[0]][enlarged[1]].focus());
