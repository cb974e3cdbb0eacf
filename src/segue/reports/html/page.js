// Draws the charts, sorts tables and searches users.
const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

function compareCells(one, other, direction) {
  const [a, b] = [one, other].map((cell) => cell.dataset.value);
  const isEmpty = [one, other].map((cell) => cell.textContent.trim() === "");
  if (isEmpty[0] || isEmpty[1]) return isEmpty[0] - isEmpty[1]; // empty cells stay last
  if (a !== undefined && b !== undefined) return direction * (Number(a) - Number(b));
  if ((a === undefined) !== (b === undefined)) return a === undefined ? 1 : -1;
  return direction * collator.compare(one.textContent, other.textContent);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const isFirstDescending = head.classList.contains("n");
      const order = before === null ? (isFirstDescending ? "descending" : "ascending")
        : before === "ascending" ? "descending" : "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const direction = order === "ascending" ? 1 : -1;
      body.append(...[...body.rows].sort((a, b) => compareCells(a.cells[column], b.cells[column], direction)));
    });
  });
}

for (const block of document.querySelectorAll(".users")) {
  const input = block.querySelector("input");
  const status = block.querySelector("[role=status]");
  const panels = [...block.querySelectorAll(".panel")];
  const search = () => {
    const text = input.value.trim().toLowerCase();
    const isExact = panels.some((panel) => panel.dataset.user.toLowerCase() === text);
    let shown = 0;
    for (const panel of panels) {
      const user = panel.dataset.user.toLowerCase();
      panel.hidden = isExact ? user !== text : !user.includes(text);
      shown += !panel.hidden;
    }
    status.textContent = text === "" ? `${panels.length} users` : `${shown} of ${panels.length} users`;
  };
  input.addEventListener("input", search);
  block.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
}

const charts = [...document.querySelectorAll(".chart")];
for (const chart of charts) {
  const spec = JSON.parse(document.getElementById(chart.dataset.spec).textContent);
  // ast: expressions are interpreted, so that the page needs no permission to evaluate code
  const tooltip = { disableDefaultStyle: true }; // the style sheet has light and dark colors
  const options = { ast: true, actions: false, renderer: "svg", defaultStyle: false, tooltip };
  window.vegaEmbed(chart, spec, options).then(
    () => {
      chart.style.minHeight = "";
      chart.querySelector("svg").setAttribute("aria-hidden", "true");
      chart.dataset.drawn = "true";
      if (charts.every((one) => one.dataset.drawn)) document.documentElement.dataset.ready = "true";
    },
    (error) => console.error(`${chart.dataset.spec}: ${error}`),
  );
}
if (charts.length === 0) document.documentElement.dataset.ready = "true";
