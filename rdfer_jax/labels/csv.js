"use strict";

/** CSV by RFC 4180: fields with a comma, a quote or a line break are quoted. */
const Csv = {
  format(rows) {
    const field = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    return rows.map((row) => `${row.map(field).join(",")}\r\n`).join("");
  },

  /** Returns rows of fields, without blank lines; throws an Error for unbalanced quotes. */
  parse(text) {
    const token = /(?:"((?:[^"]|"")*)"|([^",\r\n][^,\r\n]*|))(,|\r\n|\n|\r)/y;
    const whole = `${text.replace(/^\uFEFF/, "")}\n`;
    const rows = [[]];
    while (token.lastIndex < whole.length) {
      const match = token.exec(whole);
      if (!match) throw new Error(`row ${rows.length} has unbalanced quotes`);
      rows.at(-1).push(match[1] === undefined ? match[2] : match[1].replaceAll('""', '"'));
      if (match[3] !== "," && token.lastIndex < whole.length) rows.push([]);
    }
    return rows.filter((row) => row.length > 1 || row[0]);
  },
};
