// The table of all lines, its filters and its address.
"use strict";
(() => {
  const { columns, view: views } = kdbench;
  const byId = (id) => document.getElementById(id);
  const selects = [...document.querySelectorAll("#filters select")];
  const MOST_OPTIONS = 1000; // of a filter: browsers take seconds to lay out tens of thousands
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

  // Lines that the view shows, in its order; `offered` are the values that each filter has among what the others leave.
  let lines = [];
  let offered = {};
  function select() {
    const filters = Object.keys(kdbench.filters).map((name) => ({ name, ...kdbench.filterValues(name) }));
    const seen = filters.map(({ values }) => new Uint8Array(values.length));
    const active = filters.flatMap(({ name, values, at }, f) => {
      const wanted = view.filters[name];
      return wanted ? [{ f, at, place: values.indexOf(wanted) }] : [];
    });
    const words = view.search.toLowerCase().split(/\s+/).filter(Boolean);
    const texts = words.length ? kdbench.searched() : null;
    lines = [];
    for (let i = 0; i < kdbench.ids.length; i++) {
      if (words.length && !words.every((word) => texts[i].includes(word))) continue;
      const failed = active.filter(({ at, place }) => at[i] !== place);
      if (failed.length > 1) continue;
      if (failed.length) seen[failed[0].f][failed[0].at[i]] = 1;
      else {
        lines.push(i);
        for (let f = 0; f < filters.length; f++) seen[f][filters[f].at[i]] = 1;
      }
    }
    offered = {};
    filters.forEach(({ name, values }, f) => {
      const texts = [];
      for (let place = 0; place < values.length; place++) if (seen[f][place] && values[place]) texts.push(values[place]);
      offered[name] = texts;
    });
    if (view.order) lines = kdbench.sorted(lines, kdbench.column[view.order[0]], view.order[1]);
  }

  const shown = () => new Set(view.columns ?? views.defaultColumns());
  const order = () => (view.order ? [[columns.indexOf(kdbench.column[view.order[0]]), view.order[1]]] : []);

  view = views.parse(location.hash);
  select();

  // The table asks for a page of lines at a time, so that none but these is ever made.
  const table = new DataTable("#cells", {
    serverSide: true,
    ajax: (request, callback) =>
      callback({
        draw: request.draw,
        recordsTotal: kdbench.ids.length,
        recordsFiltered: lines.length,
        data: lines.slice(request.start, request.start + request.length).map((i) => ({ i })),
      }),
    columns: columns.map((column) => ({
      name: column.key,
      title: escapeHtml(column.title),
      className: column.isText ? "text" : "number",
      data: ({ i }) => cellHtml(column, i),
      visible: shown().has(column.key),
      orderSequence: column.isText ? ["asc", "desc", ""] : ["desc", "asc", ""],
    })),
    autoWidth: false,
    searching: false,
    processing: false,
    order: order(),
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

  // Each filter offers what the other filters leave.
  function fillSelects() {
    for (const each of selects) {
      const wanted = view.filters[each.name] ?? "";
      const values = offered[each.name];
      const texts = values.slice(-MOST_OPTIONS);
      const left = values.length - texts.length;
      if (wanted && !texts.includes(wanted)) texts.push(wanted);
      texts.sort(kdbench.collator.compare);
      const note = new Option(`${left} more: search, or filter by something else first`, "");
      note.disabled = true;
      each.replaceChildren(new Option("all", ""), ...texts.map((text) => new Option(text, text)), ...(left ? [note] : []));
      each.value = wanted;
    }
    const active = Object.keys(view.filters).length;
    byId("active").textContent = active ? `(${active})` : "";
  }

  const shownColumns = () => columns.filter((column) => table.column(`${column.key}:name`).visible());

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
    const visible = shown();
    columns.forEach((column, k) => {
      if (table.column(k).visible() !== visible.has(column.key)) table.column(k).visible(visible.has(column.key), false);
    });
    select();
    table.order(order());
    table.draw();
    showControls();
  }

  // The controls as the view has them, and the line in detail.
  function showControls() {
    const visible = shown();
    for (const box of document.querySelectorAll("#column-choices input")) box.checked = visible.has(box.value);
    byId("search").value = view.search;
    fillSelects();
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
  for (const each of selects) {
    each.addEventListener("change", () => {
      const filters = { ...view.filters, [each.name]: each.value };
      if (!each.value) delete filters[each.name];
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
    select();
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
    kdbench.download.save("kdbench.csv", "text/csv", kdbench.download.csv(shownColumns(), lines));
  });
  byId("latex").addEventListener("click", () => {
    kdbench.download.save("kdbench.tex", "text/x-tex", kdbench.download.latex(shownColumns(), lines));
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
  showControls();
})();
