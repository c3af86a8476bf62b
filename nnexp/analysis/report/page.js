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
