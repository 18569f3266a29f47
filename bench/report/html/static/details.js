// Details of a line: the script that has them is loaded when they are asked for, and so is the library of curves.
"use strict";
(() => {
  const loaded = new Map();
  const dialog = document.getElementById("details");
  const title = document.getElementById("details-title");
  const subtitle = document.getElementById("details-subtitle");
  const body = document.getElementById("details-body");
  let shown = "";

  const { element, loadScript } = page;

  // Called by a script of details; a specification is in blocks, of which lines share most.
  kdbench.showDetails = (name, { texts, cells }) => {
    for (const content of Object.values(cells)) {
      for (const part of content.sections) if (part.blocks) part.text = part.blocks.map((k) => texts[k]).join("");
    }
    loaded.set(name, cells);
  };

  // The script that has the details of a line: the last one that begins at or before it.
  const shardOf = (id) => kdbench.shards.findLast(([, first]) => first <= kdbench.lineOf().get(id))[0];

  let plotly = null;
  const loadPlotly = () => (plotly ??= loadScript("assets/plotly.min.js"));

  function value(text) {
    const data = element("dd");
    if (/^https:\/\/\S+$/.test(text)) {
      const link = element("a", text);
      link.href = text;
      link.rel = "noopener noreferrer";
      data.append(link);
    } else data.textContent = text;
    return data;
  }

  function facts(section) {
    const named = section.facts.some(([name]) => name);
    if (!named) {
      const list = element("ul");
      for (const [, text] of section.facts) list.append(element("li", text));
      return list;
    }
    const list = element("dl");
    for (const [name, text] of section.facts) {
      list.append(element("dt", name || "note"), value(text));
    }
    return list;
  }

  const number = (value, isFraction, isSigned) =>
    (isSigned && value >= 0 ? "+" : "") + (isFraction || isSigned ? value.toFixed(2) : String(value));

  function grid(section) {
    const region = scrolling(section.title);
    if (section.rows.length > 12) region.classList.add("tall");
    const table = element("table");
    const head = element("tr");
    const fractions = section.head.map((_, k) => section.rows.some((row) => typeof row[k] === "number" && !Number.isInteger(row[k])));
    const signed = new Set(section.signed);
    section.head.forEach((text, k) => {
      const cell = element("th", section.sortable ? undefined : text);
      cell.scope = "col";
      if (section.sortable) cell.append(sorter(text, k, table, section.rows));
      if (typeof section.rows[0]?.[k] === "number") cell.className = "number";
      head.append(cell);
    });
    table.append(element("caption", section.title, "hidden"), element("thead"), element("tbody"));
    table.tHead.append(head);
    const rows = section.rows.map((values) => {
      const row = element("tr");
      values.forEach((each, k) => {
        const isNumber = typeof each === "number";
        const text = isNumber ? number(each, fractions[k], signed.has(k)) : (each ?? kdbench.MISSING);
        row.append(element("td", text, isNumber || each === null ? "number" : ""));
      });
      return row;
    });
    table.tBodies[0].append(...rows);
    region.append(table);
    return region;
  }

  // A button in a heading that sorts its table: numbers from the largest first, missing ones last.
  function sorter(text, column, table, rows) {
    const button = element("button", text, "sorter");
    button.type = "button";
    button.addEventListener("click", () => {
      const heading = button.parentElement;
      const numeric = rows.some((row) => typeof row[column] === "number");
      const now = heading.getAttribute("aria-sort");
      const descending = now ? now === "ascending" : numeric;
      const order = rows.map((row, k) => [row[column], k]).sort(([a, i], [b, j]) => {
        if (a === null || b === null) return (a === null) - (b === null) || i - j;
        return (descending ? -1 : 1) * (numeric ? a - b : kdbench.collator.compare(a, b)) || i - j;
      });
      for (const each of heading.parentElement.children) each.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const lines = table.lines ??= [...table.tBodies[0].rows];
      table.tBodies[0].append(...order.map(([, k]) => lines[k]));
    });
    return button;
  }

  function scrolling(label) {
    const region = element("div", undefined, "scroll");
    region.tabIndex = 0;
    region.setAttribute("role", "region");
    region.setAttribute("aria-label", label);
    return region;
  }

  function section(part) {
    const made = element("section");
    made.append(element("h3", part.title));
    for (const text of part.words ?? []) made.append(element("p", text));
    if (part.facts) made.append(facts(part));
    else if (part.head) made.append(grid(part));
    else {
      const region = scrolling(part.title);
      region.append(element("pre", part.text));
      made.append(region);
    }
    return made;
  }

  // A sentence with commands in backticks.
  const coded = (text) => text.split("`").map((part, k) => (k % 2 ? element("code", part) : part));

  function tile({ label, score, words, file, width, height, own }, name) {
    const figure = element("figure", undefined, own ? "own" : "");
    const image = element("img");
    image.loading = "lazy";
    image.width = width;
    image.height = height;
    image.alt = `${label} on ${name}${words ? `: ${words}` : ""}`;
    image.addEventListener("error", () => image.replaceWith(element("p", "This picture is missing; build the report again.", "missing")));
    image.src = `data/pictures/${file}`;
    const caption = element("figcaption", label);
    if (score) caption.append(" ", element("span", score, "quiet"));
    figure.append(image, caption);
    return figure;
  }

  function tiles(list, name) {
    const made = element("div", undefined, "tiles");
    made.append(...list.map((each) => tile(each, name)));
    return made;
  }

  // Truth, teacher, student alone and the line itself on each image; other methods of the pair on demand.
  function pictures(content) {
    const made = element("section", undefined, "pictures");
    made.append(element("h3", "Predictions"));
    if (content.missing) {
      const words = element("p");
      words.append(...coded(content.missing));
      made.append(words);
      return made;
    }
    if (content.note) made.append(element("p", content.note, "quiet"));
    if (content.legend.length) made.append(legend(content.legend));
    for (const image of content.images) {
      made.append(element("h4", image.name), tiles(image.tiles.filter((each) => each.main), image.name));
      const others = image.tiles.filter((each) => !each.main);
      if (!others.length) continue;
      const more = element("details");
      more.append(element("summary", `Other methods on ${image.name} (${others.length})`), tiles(others, image.name));
      made.append(more);
    }
    return made;
  }

  function legend(classes) {
    const list = element("ul", undefined, "legend");
    for (const [name, color] of classes) {
      const item = element("li");
      const swatch = element("span", undefined, "swatch");
      swatch.style.background = color;
      item.append(swatch, name);
      list.append(item);
    }
    return list;
  }

  async function open(id) {
    shown = id;
    title.textContent = "Details";
    subtitle.textContent = "loading";
    body.replaceChildren();
    if (!dialog.open) dialog.showModal();
    title.focus();
    try {
      if (!kdbench.lineOf().has(id)) throw new Error("this page has no such line; the link may be of another report");
      const name = shardOf(id);
      if (!loaded.has(name)) await loadScript(`data/cells/${name}.js`);
      if (shown !== id) return;
      await fill(loaded.get(name)[id], id);
    } catch (error) {
      subtitle.textContent = error.message;
    }
  }

  async function fill(content, id) {
    title.textContent = content.title;
    subtitle.textContent = content.subtitle;
    const [verdict, ...others] = content.sections.map(section);
    const curves = content.curves.length ? kdbench.curves.section(content) : null;
    const drawn = content.pictures ? [pictures(content.pictures)] : [];
    body.replaceChildren(verdict, ...(curves ? [curves] : []), ...drawn, ...others);
    if (!curves) return;
    await loadPlotly();
    if (shown === id) curves.drawAll();
  }

  kdbench.details = {
    open,
    isOpen: () => dialog.open,
    close: () => dialog.close(),
    onClose: (listener) => dialog.addEventListener("close", () => { shown = ""; listener(); }),
  };
  document.getElementById("close").addEventListener("click", () => dialog.close());
  theme.onChange(() => {
    const cells = dialog.open && kdbench.lineOf().has(shown) ? loaded.get(shardOf(shown)) : null;
    if (cells) fill(cells[shown], shown);
  });
})();
