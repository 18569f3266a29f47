// What all figures share: a figure is drawn in the colors of the page, and its numbers are a table, too.
"use strict";
const charts = (() => {
  const MISSING = "-";
  const NARROW = matchMedia("(max-width: 640px)");
  const LINES = ["#3b82c4", "#3a9e5c", "#b45fc2", "#8a7a3a", "#2aa5a5", "#e07b39", "#8892a0", "#7a6ff0"];
  const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

  // Plotly reads some HTML in labels; names are text.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const hover = (lines) => lines.filter(Boolean).map(plain).join("<br>");

  // A name beside an axis, which must leave room for the figure.
  function label(name) {
    const most = NARROW.matches ? 18 : 42;
    return plain(name.length > most ? `${name.slice(0, most - 1)}…` : name);
  }

  const signed = (value) => (value < 0 ? "" : "+") + value.toFixed(2);

  function colors() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    return { text: of("text"), quiet: of("quiet"), grid: of("line"), back: of("back"), raised: of("raised"), main: of("link"), bad: of("below"), good: of("above") };
  }

  // Plotly's layout; `axes` adds to its x and y axis.
  function layout({ height, xaxis, yaxis, ...others }) {
    const { text, quiet, grid, raised } = colors();
    const axis = { gridcolor: grid, zerolinecolor: quiet, automargin: true };
    return {
      height,
      margin: { l: 10, r: 14, t: 34, b: 44 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: text, family: getComputedStyle(document.body).fontFamily, size: 12 },
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
      showlegend: true,
      hoverlabel: { bgcolor: raised, bordercolor: quiet, font: { color: text }, align: "left" },
      hovermode: "closest",
      dragmode: NARROW.matches ? false : "zoom", // a finger scrolls the page
      modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: text },
      ...others,
      xaxis: { ...axis, ...xaxis },
      yaxis: { ...axis, ...yaxis },
    };
  }

  const { element } = page;

  // A cell of a table is a text, a number, or `{text, href, className}`.
  function fill(cell, value) {
    const { text, href, className } = value !== null && typeof value === "object" ? value : { text: value };
    if (/^[+×-]?\d[\d.]*( ms| %)?$/.test(text)) cell.className = "number";
    if (className) cell.className = className;
    if (!href) cell.textContent = text ?? MISSING;
    else {
      const link = element("a", text);
      link.href = href;
      cell.append(link);
    }
    return cell;
  }

  // A sentence with commands in backticks.
  const coded = (text) => text.split("`").map((part, k) => (k % 2 ? element("code", part) : part));

  function table(title, head, rows) {
    const region = element("div", undefined, "scroll");
    region.tabIndex = 0;
    region.setAttribute("role", "region");
    region.setAttribute("aria-label", title);
    const made = element("table");
    made.append(element("caption", title, "hidden"), element("thead"), element("tbody"));
    const line = element("tr");
    for (const text of head) {
      const cell = element("th", text);
      cell.scope = "col";
      line.append(cell);
    }
    made.tHead.append(line);
    for (const values of rows) {
      const row = element("tr");
      values.forEach((value, k) => {
        const cell = element(k ? "td" : "th");
        if (!k) cell.scope = "row";
        row.append(fill(cell, value));
      });
      made.tBodies[0].append(row);
    }
    const lines = [...made.tBodies[0].rows];
    [...line.cells].forEach((cell, k) => { if (lines.some((row) => row.cells[k].className === "number")) cell.className = "number"; });
    region.append(made);
    return region;
  }

  // Fill a section: `empty` is the sentence that replaces a figure; `rows` makes the table when it is opened.
  function show(id, { origin = "", empty = "", words = "", title = "", traces = [], plan = null, head = [], rows = () => [], open = null }) {
    const section = document.getElementById(id);
    const part = (name) => section.querySelector(`:scope > .${name}`);
    part("origin").replaceChildren(...coded(origin));
    part("empty").replaceChildren(...coded(empty));
    part("empty").hidden = !empty;
    part("words").textContent = words;
    const figure = part("figure");
    const numbers = part("numbers");
    numbers.hidden = Boolean(empty);
    const box = numbers.querySelector("div");
    const fillTable = () => { if (numbers.open) box.replaceChildren(table(title, head, rows())); };
    numbers.ontoggle = fillTable;
    fillTable();
    Plotly.purge(figure);
    figure.replaceChildren();
    figure.hidden = Boolean(empty);
    if (empty) return;
    figure.setAttribute("aria-label", `Figure: ${title}. The numbers follow as a table.`);
    Plotly.newPlot(figure, traces, layout(plan), CONFIG);
    if (open) figure.on("plotly_click", ({ points }) => { const address = open(points[0]); if (address) location.href = address; });
  }

  return { LINES, MISSING, NARROW, colors, hover, label, layout, plain, show, signed, table };
})();
