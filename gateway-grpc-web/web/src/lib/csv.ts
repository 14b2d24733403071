import { csvFormatRows, csvParseRows, tsvParseRows } from 'd3-dsv';

/** Rows of a CSV file, or of a table that was copied from a spreadsheet (separated by tabs). */
export function parseRows(text: string): string[][] {
  const clean = text.replace(/^\uFEFF/, '');
  const firstLine = clean.split(/\r?\n/, 1)[0] ?? '';
  return firstLine.includes('\t') ? tsvParseRows(clean) : csvParseRows(clean);
}

/** Offers rows as a file. */
export function saveCsv(name: string, rows: string[][]) {
  // The mark tells spreadsheets that the file is UTF-8, without which Korean titles break.
  const blob = new Blob(['\uFEFF', csvFormatRows(rows.map((row) => row.map(harmless))), '\r\n'], { type: 'text/csv;charset=utf-8' });
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

/** Spreadsheets would run such a text as a formula. */
function harmless(cell: string): string {
  return /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : cell;
}
