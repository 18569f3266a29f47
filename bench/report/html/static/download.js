// The lines and columns that are shown, in their order, as files.
"use strict";
kdbench.download = (() => {
  const quote = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  // A spreadsheet takes a text that begins like this for a formula.
  const field = (value) => {
    if (value === null) return "";
    if (typeof value === "number") return String(value);
    return quote(/^[=+\-@\t\r]/.test(value) ? `'${value}` : value);
  };

  // Numbers as they are, a column for each part.
  function csv(columns, lines) {
    const parts = columns.flatMap((column) =>
      column.names.map((name, k) => ({ name: name ? `${column.key}_${name}` : column.key, read: column.read[k], used: column.parts[k] || k === 0 })),
    ).filter((part) => part.used);
    const rows = lines.map((i) => parts.map((part) => field(part.read(i))).join(","));
    return [parts.map((part) => part.name).join(","), ...rows].join("\n") + "\n";
  }

  const ESCAPES = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "&": "\\&", "%": "\\%", $: "\\$", "#": "\\#", _: "\\_",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}",
    "±": "$\\pm$", "×": "$\\times$", "→": "$\\to$",
  };
  const escapeLatex = (text) => text.replace(/[\\{}&%$#_~^<>±×→]/g, (char) => ESCAPES[char]).replace(/\s+/g, " ");

  function latex(columns, lines) {
    const row = (texts) => `${texts.map(escapeLatex).join(" & ")} \\\\`;
    return [
      "% \\usepackage{booktabs}",
      `\\begin{tabular}{${columns.map((column) => (column.isText ? "l" : "r")).join("")}}`,
      "\\toprule",
      row(columns.map((column) => column.title)),
      "\\midrule",
      ...lines.map((i) => row(columns.map((column) => kdbench.text(column, i)))),
      "\\bottomrule",
      "\\end{tabular}",
      "",
    ].join("\n");
  }

  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  return { csv, latex, save };
})();
