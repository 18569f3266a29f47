// What the page shows, as the part of its address after `#`: search, filters, order, columns, and the line in detail.
"use strict";
kdbench.view = (() => {
  const NARROW = matchMedia("(max-width: 640px)");

  // Where all lines have one scale, the column only takes space.
  const saysNothing = (column) => column.isEmpty || (column.key === "scale" && column.parts[0].values.length === 1);
  const defaultColumns = () =>
    kdbench.columns.filter((column) => !saysNothing(column) && (NARROW.matches ? column.narrow : column.shown)).map((column) => column.key);

  const empty = () => ({ search: "", filters: {}, order: null, columns: null, cell: "" });

  // Names that no column or filter has are ignored: an address may be older than the page.
  function parse(hash) {
    const given = new URLSearchParams(hash.replace(/^#/, ""));
    const view = empty();
    view.search = given.get("q") ?? "";
    for (const name of Object.keys(kdbench.filters)) if (given.get(name)) view.filters[name] = given.get(name);
    const [key, direction] = (given.get("sort") ?? "").split(":");
    if (kdbench.column[key]) view.order = [key, direction === "desc" ? "desc" : "asc"];
    if (given.has("columns")) view.columns = given.get("columns").split(",").filter((each) => kdbench.column[each]);
    view.cell = given.get("cell") ?? "";
    return view;
  }

  function format(view) {
    const parts = new URLSearchParams();
    if (view.search) parts.set("q", view.search);
    for (const [name, value] of Object.entries(view.filters)) if (value) parts.set(name, value);
    if (view.order) parts.set("sort", view.order.join(":"));
    if (view.columns) parts.set("columns", view.columns.join(","));
    if (view.cell) parts.set("cell", view.cell);
    return `#${parts}`;
  }

  return { defaultColumns, empty, parse, format };
})();
