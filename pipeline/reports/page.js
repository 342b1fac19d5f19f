"use strict";
const cellsOf = (table) => [...table.tBodies[0].rows];
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), column = head.cellIndex;
    const turn = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", turn === 1 ? "ascending" : "descending");
    const key = (row) => row.cells[column].textContent;
    const value = (row) => Number.parseFloat(key(row).replaceAll(",", ""));
    const numeric = head.classList.contains("number");
    const rows = cellsOf(table).sort((a, b) => {
      if (!numeric) return turn * key(a).localeCompare(key(b));
      const [first, second] = [value(a), value(b)];
      if (Number.isNaN(first) || Number.isNaN(second)) return Number.isNaN(first) - Number.isNaN(second);
      return turn * (first - second);
    });
    table.tBodies[0].append(...rows);
  });
}
for (const field of document.querySelectorAll("input[data-table]")) {
  const table = document.getElementById(field.dataset.table);
  const told = document.querySelector(`output[data-of="${field.dataset.table}"]`);
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    let shown = 0;
    for (const row of cellsOf(table)) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += row.hidden ? 0 : 1;
    }
    told.textContent = wanted ? `${shown} of ${cellsOf(table).length} rows` : "";
  });
}
