import { Missing } from "../bits";
import { moment } from "../figures";
import type { Live } from "../live";
import { Table } from "../table";
import type { Change } from "../wire";

/** Who changed what, when. */
export function Events({ live }: { live: Live }) {
  const history = live.parts.history;
  return (
    <>
      <h1>Events</h1>
      <p class="dim">
        The last changes of the replicated state. <code>conduit diff A B</code> shows what is configured differently at two revisions.
      </p>
      {history ? (
        <Table
          caption="Changes"
          columns={[
            { title: "REVISION", numeric: true, value: (change: Change) => Number(change.index), show: (change) => change.index },
            { title: "TIME", value: (change) => Number(change.timeMs), show: (change) => moment(change.timeMs) },
            { title: "BY", value: (change) => change.proposer },
            { title: "CHANGE", value: (change) => change.summary, wide: true },
          ]}
          rows={history.changes}
          rowKey={(change) => change.index}
          filter={(change) => `${change.index} ${change.proposer} ${change.summary}`}
          sort={{ column: 0, down: true }}
          empty="Nothing has changed yet."
        />
      ) : (
        <Missing live={live} part="history" what="changes" />
      )}
    </>
  );
}
