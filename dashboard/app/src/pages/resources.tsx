import { figureColumns, Link, Missing, Partial } from "../bits";
import { nameOf, NONE } from "../figures";
import type { Live } from "../live";
import { type Column, Table } from "../table";
import type { Pod, StatRow } from "../wire";

const TITLES: Record<string, string> = {
  namespace: "Namespaces",
  deployment: "Deployments",
  pod: "Pods",
  authority: "Authorities",
};

/** All resources of a kind, as `conduit stat KIND -A` lists them. */
export function Resources({ live, kind }: { live: Live; kind: string }) {
  const { stat, pods } = live.parts;
  const title = TITLES[kind] ?? kind;
  return (
    <>
      <h1>{title}</h1>
      <Partial of={stat} />
      {stat ? (
        <Table
          caption={title}
          columns={columns(kind, pods?.pods ?? [])}
          rows={stat.rows}
          rowKey={(row) => nameOf(row.resource)}
          filter={(row) => nameOf(row.resource)}
          empty={<Empty kind={kind} />}
        />
      ) : (
        <Missing live={live} part="stat" what={title.toLowerCase()} />
      )}
    </>
  );
}

function Empty({ kind }: { kind: string }) {
  if (kind === "authority") return <>No requests were counted in this window. Choose a longer one above, or send some.</>;
  return (
    <>
      There are none. Add some: <code>conduit inject deployment.yml | kubectl apply -f -</code>
    </>
  );
}

function columns(kind: string, pods: Pod[]): Column<StatRow>[] {
  const all: Column<StatRow>[] = [
    {
      title: "NAME",
      value: (row) => row.resource.name,
      show: (row) => (kind === "authority" ? row.resource.name : <Link to={row.resource} />),
    },
  ];
  if (kind !== "namespace") all.unshift({ title: "NAMESPACE", value: (row) => row.resource.namespace });
  if (kind !== "authority") {
    all.push({
      title: "MESHED",
      numeric: true,
      value: (row) => (row.runningPods ? row.meshedPods / row.runningPods : null),
      show: (row) => <Meshed row={row} />,
    });
  }
  if (kind === "pod") {
    const known = new Map(pods.map((pod) => [nameOf({ kind, ...pod }), pod]));
    all.push({
      title: "STATUS",
      value: (row) => podStatus(known.get(nameOf(row.resource))),
    });
  }
  return [...all, ...figureColumns<StatRow>((row) => row.stats)];
}

export function podStatus(pod: Pod | undefined): string {
  if (!pod) return NONE;
  if (!pod.ready) return "not ready";
  if (!pod.meshed) return "not added";
  return pod.connected ? "ready" : "proxy not connected";
}

function Meshed({ row }: { row: StatRow }) {
  const text = `${row.meshedPods}/${row.runningPods}`;
  return row.meshedPods < row.runningPods ? <span class="success fair">{text}</span> : <>{text}</>;
}
