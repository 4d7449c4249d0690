"use strict";

/** CSV as RFC 4180 has it: fields with a comma, a quote or a line break are quoted. */
const Csv = {
  format(rows) {
    const field = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    return rows.map((row) => `${row.map(field).join(",")}\r\n`).join("");
  },

  /** Returns rows of fields, without blank lines; throws an Error where the quotes do not match. */
  parse(text) {
    const token = /(?:"((?:[^"]|"")*)"|([^",\r\n][^,\r\n]*|))(,|\r\n|\n|\r)/y;
    const whole = `${text.replace(/^\uFEFF/, "")}\n`;
    const rows = [[]];
    while (token.lastIndex < whole.length) {
      const found = token.exec(whole);
      if (!found) throw new Error(`the quotes of row ${rows.length} do not match`);
      rows.at(-1).push(found[1] === undefined ? found[2] : found[1].replaceAll('""', '"'));
      if (found[3] !== "," && token.lastIndex < whole.length) rows.push([]);
    }
    return rows.filter((row) => row.length > 1 || row[0]);
  },
};
