import { Dot, Link, Missing, Section } from "../bits";
import { moment } from "../figures";
import type { Live } from "../live";
import { Table } from "../table";
import type { Alerts, Change } from "../wire";

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
      <Section title="Alerts">
        {live.parts.alerts ? <Alerted events={live.parts.alerts.events} /> : <Missing live={live} part="alerts" what="alerts" />}
      </Section>
    </>
  );
}

type Event = Alerts["events"][number];

/** Which objectives were not kept, and were again. */
function Alerted({ events }: { events: Event[] }) {
  return (
    <Table
      caption="Alerts"
      columns={[
        { title: "TIME", value: (event: Event) => Number(event.timeMs), show: (event) => moment(event.timeMs) },
        { title: "NAME", value: ({ resource }) => `${resource.namespace}/${resource.name}`, show: ({ resource }) => <Link to={resource} full /> },
        { title: "OBJECTIVE", value: (event) => event.goal },
        {
          title: "STATE",
          value: (event) => (event.firing ? "firing" : "over"),
          show: (event) => (
            <>
              <Dot state={event.firing ? "bad" : "good"} label={event.firing ? event.severity : "over"} /> {event.firing ? "firing" : "over"}
            </>
          ),
        },
        { title: "SEVERITY", value: (event) => event.severity },
        { title: "WEBHOOK", value: (event) => event.delivery },
      ]}
      rows={events}
      rowKey={(event) => event.id + event.resource.namespace + event.resource.name + event.goal}
      sort={{ column: 0, down: true }}
      empty="No objective was broken yet, as far as that is remembered."
    />
  );
}
