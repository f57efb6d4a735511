import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

export interface Column<Row> {
  title: string;
  /** What it is sorted by; null comes last. */
  value: (row: Row) => string | number | null;
  show?: (row: Row) => ComponentChildren;
  numeric?: boolean;
  wide?: boolean;
}

interface Props<Row> {
  /** Says what it lists, to those who do not see it. */
  caption: string;
  columns: Column<Row>[];
  rows: Row[];
  rowKey: (row: Row) => string;
  /** Shown instead of no rows. */
  empty: ComponentChildren;
  /** What can be typed to find rows; without it nothing can. */
  filter?: (row: Row) => string;
  sort?: { column: number; down: boolean };
}

/** More rows than anybody reads; the filter finds the others. */
const ROWS_MAX = 500;

/** As each table was sorted when it was last seen. */
const sorted = new Map<string, { column: number; down: boolean }>();

export function Table<Row>({ caption, columns, rows, rowKey, empty, filter, sort }: Props<Row>) {
  const [by, setBy] = useState(() => sorted.get(caption) ?? sort ?? { column: 0, down: false });
  const [text, setText] = useState("");
  const chosen = columns[by.column] ?? columns[0];
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = filter && words.length ? rows.filter((row) => words.every((word) => filter(row).toLowerCase().includes(word))) : rows;
  const ordered = chosen ? [...found].sort((a, b) => compare(chosen.value(a), chosen.value(b), by.down)) : found;
  const sortBy = (column: number) => {
    // Of numbers the large ones are looked for first.
    const next = { column, down: column === by.column ? !by.down : columns[column]?.numeric === true };
    sorted.set(caption, next);
    setBy(next);
  };
  return (
    <div class="table">
      {filter && (
        <div class="filter">
          <input
            type="search"
            placeholder="Filter"
            aria-label={`Filter ${caption}`}
            value={text}
            onInput={(event) => setText(event.currentTarget.value)}
          />
          <span class="dim">{words.length ? `${found.length} of ${rows.length}` : rows.length}</span>
        </div>
      )}
      {rows.length > 0 && (
        <div class="scroll" role="region" aria-label={caption} tabIndex={0}>
          <table>
            <thead>
              <tr>
                {columns.map((column, i) => (
                  <th
                    key={column.title}
                    scope="col"
                    class={column.numeric ? "number" : ""}
                    aria-sort={i === by.column ? (by.down ? "descending" : "ascending") : "none"}
                  >
                    <button type="button" onClick={() => sortBy(i)}>
                      {column.title}
                      <span aria-hidden="true" class="arrow">
                        {i === by.column ? (by.down ? "▾" : "▴") : ""}
                      </span>
                    </button>
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {ordered.slice(0, ROWS_MAX).map((row) => (
                <tr key={rowKey(row)}>
                  {columns.map((column) => (
                    <td key={column.title} class={[column.numeric && "number", column.wide && "wide"].filter(Boolean).join(" ")}>
                      {column.show ? column.show(row) : column.value(row)}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {ordered.length === 0 && <p class="empty">{rows.length ? "Nothing of it matches the filter." : empty}</p>}
      {ordered.length > ROWS_MAX && (
        <p class="empty">
          {ordered.length - ROWS_MAX} more: use the filter to find them.
        </p>
      )}
    </div>
  );
}

function compare(a: string | number | null, b: string | number | null, down: boolean): number {
  if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  return down ? -order : order;
}
