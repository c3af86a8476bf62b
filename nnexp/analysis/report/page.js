// A click on a column's name sorts by it, a second one the other way round; cells without a value stay last.
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const isNumeric = head.classList.contains("number");
    const valueOf = (row) => {
      const cell = row.cells[column];
      const text = cell.dataset.v ?? cell.textContent;
      return isNumeric && text !== "" ? Number(text) : text;
    };
    const compare = (a, b) => {
      const [x, y] = [valueOf(a), valueOf(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (isNumeric ? (x > y) - (x < y) : x.localeCompare(y, undefined, { numeric: true }));
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  }));
}
// A table that is wider than the page becomes a list of cards, each cell with the name of its column.
const widths = new Map();
const observer = new ResizeObserver((seen) => seen.forEach(({ target }) => {
  const width = target.clientWidth;
  if (!width || widths.get(target) === width) return;
  widths.set(target, width);
  const table = target.querySelector("table");
  table.classList.remove("cards");
  if (target.scrollWidth <= width) return;
  const names = [...table.tHead.rows[0].cells].map((head) => head.textContent);
  for (const row of table.tBodies[0].rows) [...row.cells].forEach((cell, i) => { cell.dataset.label = names[i]; });
  table.classList.add("cards");
}));
document.querySelectorAll(".wide").forEach((wide) => observer.observe(wide));
