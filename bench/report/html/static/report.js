// The table of all lines, its filters and its address.
"use strict";
(() => {
  const { columns, view: views } = kdbench;
  const byId = (id) => document.getElementById(id);
  const selects = [...document.querySelectorAll("#filters select")];
  let view = views.empty();

  const escapeHtml = (text) => text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
  const slug = (text) => text.replace(/[^a-z]+/g, "-");

  function cellHtml(column, i) {
    const plain = escapeHtml(kdbench.text(column, i));
    const text = column.isText ? plain.replace(/[_+:,]/g, "$&<wbr>") : plain;
    if (column.kind === "evidence") return text.replace(") ", ")<br>");
    if (column.key === "method") return `<a href="#cell=${kdbench.ids[i]}" data-line="${i}">${text}</a>`;
    return column.key === "verdict" ? `<span class="verdict ${slug(kdbench.text(column, i))}">${text}</span>` : text;
  }

  function value(column, { i }, type) {
    if (type === "display") return cellHtml(column, i);
    if (type === "filter") return column.isText || column.key === "reported" ? kdbench.text(column, i) : "";
    return kdbench.sortValue(column, i);
  }

  // Lines without a value come last in both directions.
  const compare = (sign) => (a, b) => (a === null ? (b === null ? 0 : 1) : b === null ? -1 : sign * (a - b));
  DataTable.type("kdbench", { order: { asc: compare(1), desc: compare(-1) } });

  const table = new DataTable("#cells", {
    data: kdbench.ids.map((_, i) => ({ i })),
    columns: columns.map((column) => ({
      name: column.key,
      title: escapeHtml(column.title),
      type: "kdbench",
      className: column.isText ? "text" : "number",
      data: (line, type) => value(column, line, type),
      visible: !column.isEmpty,
      orderSequence: column.isText ? ["asc", "desc", ""] : ["desc", "asc", ""],
    })),
    deferRender: true,
    autoWidth: false,
    order: [],
    pageLength: 50,
    layout: { topStart: null, topEnd: null, bottomStart: "info", bottomEnd: ["pageLength", "paging"] },
    language: {
      info: "_START_ to _END_ of _TOTAL_ lines",
      infoEmpty: "no lines",
      infoFiltered: "(of _MAX_)",
      lengthMenu: "_MENU_ lines a page",
      emptyTable: "There are no lines.",
      zeroRecords: "No line matches; Reset shows all.",
    },
  });
  const region = byId("cells").closest(".dt-layout-table") ?? byId("cells").parentElement;
  region.classList.add("scroll");
  region.tabIndex = 0;
  region.setAttribute("role", "region");
  region.setAttribute("aria-labelledby", "lines-title");

  const passes = (i, except) =>
    Object.entries(view.filters).every(([name, wanted]) => name === except || kdbench.filterValue(name, i) === wanted);
  table.search.fixed("filters", (_text, { i }) => passes(i));

  // Each filter offers what the other filters leave.
  function fillSelects() {
    for (const select of selects) {
      const offered = new Set();
      for (let i = 0; i < kdbench.ids.length; i++) if (passes(i, select.name)) offered.add(kdbench.filterValue(select.name, i));
      const wanted = view.filters[select.name] ?? "";
      if (wanted) offered.add(wanted);
      offered.delete("");
      const texts = [...offered].sort(kdbench.collator.compare);
      select.replaceChildren(new Option("all", ""), ...texts.map((text) => new Option(text, text)));
      select.value = wanted;
    }
    const active = Object.keys(view.filters).length;
    byId("active").textContent = active ? `(${active})` : "";
  }

  const shownColumns = () => columns.filter((column) => table.column(`${column.key}:name`).visible());
  const shownLines = () => table.rows({ search: "applied", order: "applied" }).data().toArray().map(({ i }) => i);

  function fillColumnChoices() {
    const boxes = columns.filter((column) => !column.isEmpty).map((column) => {
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.value = column.key;
      label.append(box, ` ${column.title}`);
      if (column.about) label.title = column.about;
      return label;
    });
    byId("column-choices").replaceChildren(...boxes);
  }

  function apply() {
    const visible = new Set(view.columns ?? views.defaultColumns());
    for (const column of columns) table.column(`${column.key}:name`).visible(visible.has(column.key), false);
    for (const box of document.querySelectorAll("#column-choices input")) box.checked = visible.has(box.value);
    byId("search").value = view.search;
    fillSelects();
    table.order(view.order ? [[columns.indexOf(kdbench.column[view.order[0]]), view.order[1]]] : []);
    table.search(view.search).columns.adjust().draw();
    if (view.cell) kdbench.details.open(view.cell);
    else if (kdbench.details.isOpen()) kdbench.details.close();
  }

  // The address follows the view; a line in detail is a step back in the browser's history.
  function remember(step = false) {
    const address = views.format(view);
    if (address !== (location.hash || "#")) history[step ? "pushState" : "replaceState"](null, "", address);
  }

  function change(update, step) {
    view = { ...view, ...update };
    remember(step);
    apply();
  }

  const say = (text) => { byId("message").textContent = text; };

  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  let typing = 0;
  byId("search").addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ search: event.target.value }), 150);
  });
  for (const select of selects) {
    select.addEventListener("change", () => {
      const filters = { ...view.filters, [select.name]: select.value };
      if (!select.value) delete filters[select.name];
      change({ filters });
    });
  }
  byId("column-choices").addEventListener("change", () => {
    const keys = [...document.querySelectorAll("#column-choices input:checked")].map((box) => box.value);
    change({ columns: keys });
  });
  table.on("order", () => {
    const [first] = table.order();
    const order = first && first[1] ? [columns[first[0]].key, first[1]] : null;
    if (String(order) === String(view.order)) return;
    view = { ...view, order };
    remember();
  });
  byId("cells").addEventListener("click", (event) => {
    const link = event.target.closest("a[data-line]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    view = { ...view, cell: kdbench.ids[Number(link.dataset.line)] };
    remember(true);
    kdbench.details.open(view.cell);
  });
  kdbench.details.onClose(() => { view = { ...view, cell: "" }; remember(); });
  byId("csv").addEventListener("click", () => {
    kdbench.download.save("kdbench.csv", "text/csv", kdbench.download.csv(shownColumns(), shownLines()));
  });
  byId("latex").addEventListener("click", () => {
    kdbench.download.save("kdbench.tex", "text/x-tex", kdbench.download.latex(shownColumns(), shownLines()));
  });
  byId("link").addEventListener("click", async () => {
    remember();
    try {
      await navigator.clipboard.writeText(location.href);
      say("The link to this view was copied.");
    } catch (error) {
      say(`The browser does not allow copying (${error.message}); the address of the page is the link.`);
    }
  });
  for (const link of document.querySelectorAll("#papers a")) {
    link.addEventListener("click", () => setTimeout(() => byId("lines").scrollIntoView()));
  }
  byId("reset").addEventListener("click", () => change(views.empty()));
  addEventListener("hashchange", () => {
    if (["#lines", "#papers-title"].includes(location.hash)) return;
    view = views.parse(location.hash);
    apply();
  });

  fillColumnChoices();
  byId("filters").open = matchMedia("(min-width: 641px)").matches;
  view = views.parse(location.hash);
  apply();
})();
