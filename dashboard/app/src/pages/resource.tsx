import { useMemo } from "preact/hooks";

import { figureColumns, Link, Missing, Partial, Section, Success, Tile } from "../bits";
import { Chart } from "../chart";
import { figures, latency, nameOf, NONE, percentile, rate, wholePercent } from "../figures";
import type { Live } from "../live";
import { linkTo, type Place } from "../route";
import { type Column, Table } from "../table";
import { Topology } from "../topology";
import type { Pod, Ref, Series, Stat, StatRow } from "../wire";
import { Failing } from "./failing";
import { podStatus } from "./resources";

/** One resource: its figures as time passes, whom it speaks with, and its pods. */
export function Resource({ live, place }: { live: Live; place: Place }) {
  const { stat, callers, callees, edges, pods, series } = live.parts;
  const ref: Ref = { kind: place.kind, namespace: place.namespace, name: place.name };
  const row = stat?.rows.find((row) => row.resource.name === ref.name && row.resource.namespace === ref.namespace) ?? stat?.rows[0];
  const own = (pods?.pods ?? []).filter((pod) => isOf(pod, ref));
  const target = ref.kind === "namespace" ? `ns/${ref.name}` : `${ref.kind} ${nameOf(ref)}`;
  return (
    <>
      <p class="crumbs">
        <a href={`#/${ref.kind}s`}>{ref.kind}s</a>
        {ref.namespace && (
          <>
            {" / "}
            <a href={linkTo("namespace", "", ref.namespace)}>{ref.namespace}</a>
          </>
        )}
      </p>
      <h1>{ref.name}</h1>
      {stat && !row && own.length === 0 && (
        <p class="note">
          There is no {ref.kind} of this name now. <code>conduit get pods -A</code> lists what there is.
        </p>
      )}
      <Tiles row={row} />
      <Partial of={stat} />
      <Failing of={pods} which={(pod) => isOf(pod, ref)} />
      <p class="dim">
        In a terminal: <code>conduit stat {target}</code> · <a href={`#/tap/${ref.kind}/${ref.namespace || "-"}/${ref.name}`}>watch its requests</a>
      </p>
      <Section title="As time passes">
        <Missing live={live} part="series" what="time series" />
        {series && <Curves series={series} />}
      </Section>
      <Section title="Topology">
        <Missing live={live} part="edges" what="edges" />
        {edges && <Topology edges={edges.edges} rows={row ? [row] : []} about={ref} />}
      </Section>
      <div class="columns">
        <Section title="Callers">
          <Neighbours live={live} part="callers" stat={callers} empty={`No other ${ref.kind} has called it in this window.`} />
        </Section>
        <Section title="Callees">
          <Neighbours live={live} part="callees" stat={callees} empty={`It has called no other ${ref.kind} in this window.`} />
        </Section>
      </div>
      {ref.kind !== "pod" && (
        <Section title="Pods">
          {pods ? <Pods pods={own} /> : <Missing live={live} part="pods" what="pods" />}
        </Section>
      )}
    </>
  );
}

function isOf(pod: Pick<Pod, "namespace" | "name" | "workload">, ref: Ref): boolean {
  if (ref.kind === "namespace") return pod.namespace === ref.name;
  const name = ref.kind === "pod" ? pod.name : pod.workload?.kind === ref.kind ? pod.workload.name : "";
  return pod.namespace === ref.namespace && name === ref.name;
}

function Tiles({ row }: { row: StatRow | undefined }) {
  const has = figures(row?.stats);
  return (
    <dl class="tiles">
      <Tile name="Success rate">
        <Success of={has?.success} />
      </Tile>
      <Tile name="Requests per second">{has ? rate(has.rps) : NONE}</Tile>
      <Tile name="P50">{has ? percentile(has.p50) : NONE}</Tile>
      <Tile name="P95">{has ? percentile(has.p95) : NONE}</Tile>
      <Tile name="P99">{has ? percentile(has.p99) : NONE}</Tile>
      <Tile name="TLS">{has ? wholePercent(has.tls) : NONE}</Tile>
      <Tile name="Meshed">{row ? `${row.meshedPods}/${row.runningPods}` : NONE}</Tile>
    </dl>
  );
}

function Neighbours({ live, part, stat, empty }: { live: Live; part: "callers" | "callees"; stat: Stat | undefined; empty: string }) {
  if (!stat) return <Missing live={live} part={part} what={part} />;
  const rows = stat.rows.filter((row) => figures(row.stats));
  const columns: Column<StatRow>[] = [
    { title: "NAME", value: (row) => nameOf(row.resource), show: (row) => <Link to={row.resource} full /> },
    ...figureColumns<StatRow>((row) => row.stats),
  ];
  return <Table caption={part === "callers" ? "Callers" : "Callees"} columns={columns} rows={rows} rowKey={(row) => nameOf(row.resource)} empty={empty} />;
}

function Pods({ pods }: { pods: Pod[] }) {
  const columns: Column<Pod>[] = [
    { title: "NAME", value: (pod) => pod.name, show: (pod) => <Link to={{ kind: "pod", namespace: pod.namespace, name: pod.name }} /> },
    { title: "IP", value: (pod) => pod.ip },
    { title: "STATUS", value: podStatus },
    { title: "ACKNOWLEDGED", numeric: true, value: (pod) => (pod.connected ? Number(pod.ackedRevision) : null), show: (pod) => (pod.connected ? pod.ackedRevision : NONE) },
  ];
  return <Table caption="Pods of it" columns={columns} rows={pods} rowKey={(pod) => `${pod.namespace}/${pod.name}`} empty="It has no pods now." />;
}

function Curves({ series }: { series: Series }) {
  const { times, requests, latencies } = useMemo(() => curves(series), [series]);
  return (
    <div class="columns">
      <Chart title="Requests per second" times={times} lines={requests} write={(value) => value.toFixed(value < 10 ? 1 : 0)} />
      <Chart title="Latency" times={times} lines={latencies} write={latency} />
    </div>
  );
}

function curves({ points: all }: Series) {
  // The last step has only begun: its counts are not those of a whole one.
  const points = all.slice(0, -1);
  const [first, second] = points;
  const stepMs = first && second ? Number(second.startMs) - Number(first.startMs) : 5000;
  const perSecond = (count: string) => (Number(count) * 1000) / stepMs;
  const quantile = (key: "latencyP50Us" | "latencyP95Us" | "latencyP99Us") =>
    points.map((point) => (Number(point[key]) > 0 ? Number(point[key]) : null));
  return {
    times: points.map((point) => Number(point.startMs) / 1000),
    requests: [
      { name: "succeeded", color: "good", values: points.map((point) => perSecond(point.successCount)), fill: true },
      { name: "failed", color: "bad", values: points.map((point) => perSecond(point.failureCount)), fill: true },
    ],
    latencies: [
      { name: "p50", color: "line-a", values: quantile("latencyP50Us") },
      { name: "p95", color: "line-b", values: quantile("latencyP95Us") },
      { name: "p99", color: "line-c", values: quantile("latencyP99Us") },
    ],
  };
}
