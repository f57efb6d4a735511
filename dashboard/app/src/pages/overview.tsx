import { useContext } from "preact/hooks";

import { Dot, Missing, Partial, Section, Tile, figureColumns, Link } from "../bits";
import { figures, NONE, percent, percentile, rate, wholePercent } from "../figures";
import type { Live } from "../live";
import { Scope } from "../scope";
import { type Column, Table } from "../table";
import { Topology } from "../topology";
import type { Member, Objectives as Answer, Pod, StatRow, Stats } from "../wire";

import { Failing } from "./failing";
import { firing, Objectives } from "./objectives";

/** What each controller consists of, and which of its ports it is at. */
const COMPONENTS = ["destination", "identity", "proxy-api", "public-api", "tap", "telemetry"];
/** What may come with it, by the names of their deployments. */
const ADDONS = { prometheus: "Prometheus", grafana: "Grafana" };

export function Overview({ live }: { live: Live }) {
  const { pods, raft, stat, totals, edges, objectives } = live.parts;
  const rows = stat?.rows ?? [];
  const workloads = added(pods?.pods ?? []);
  const scope = useContext(Scope);
  return (
    <>
      <h1>Service mesh overview</h1>
      <Welcome isUp={(live.parts.version !== undefined || scope !== "") && pods !== undefined} workloads={workloads} />
      <Totals rows={totals?.rows ?? []} pods={pods?.pods} objectives={objectives} />
      <Partial of={stat} />
      <Failing of={pods} />
      <div class="columns">
        <Section title="Control plane">
          <ControlPlane members={raft?.members} pods={pods?.pods ?? []} live={live} />
        </Section>
        <Section title="Service mesh details">
          <Details live={live} workloads={workloads} />
        </Section>
      </div>
      <Section title="Deployments">
        {stat ? <Deployments rows={rows} /> : <Missing live={live} part="stat" what="deployments" />}
      </Section>
      {objectives ? <Objectives answer={objectives} /> : <Missing live={live} part="objectives" what="objectives" />}
      <Section title="Topology">
        <Missing live={live} part="edges" what="edges" />
        {edges && <Topology edges={edges.edges} rows={rows} />}
      </Section>
    </>
  );
}

interface Added {
  all: number;
  meshed: number;
  proxies: number;
}

/** Deployments, by their pods: one that has a meshed pod is added. */
function added(pods: Pod[]): Added {
  const meshed = new Map<string, boolean>();
  for (const pod of pods) {
    if (pod.workload?.kind !== "deployment") continue;
    const name = `${pod.namespace}/${pod.workload.name}`;
    meshed.set(name, meshed.get(name) || pod.meshed);
  }
  const count = [...meshed.values()].filter(Boolean).length;
  return { all: meshed.size, meshed: count, proxies: pods.filter((pod) => pod.connected).length };
}

function Welcome({ isUp, workloads }: { isUp: boolean; workloads: Added }) {
  if (!isUp) return <p class="note dim">Asking the control plane…</p>;
  const connected = workloads.meshed > 0;
  return (
    <div class="welcome">
      <p class="headline">The service mesh was successfully installed</p>
      <ol>
        <Step done text="Controller successfully installed" />
        <Step done={workloads.all > 0} text={`${workloads.all} deployments detected`} />
        <Step
          done={connected}
          text={connected ? `${workloads.meshed} of ${workloads.all} deployments connected` : "Connect your first deployment"}
        />
      </ol>
      <p class="dim">
        Add one or more deployments to the deployment.yml file. Then run{" "}
        <code>conduit inject deployment.yml | kubectl apply -f -</code> to add deploys to the service mesh
      </p>
    </div>
  );
}

function Step({ done, text }: { done: boolean; text: string }) {
  return (
    <li class={done ? "done" : "todo"}>
      <span aria-hidden="true">{done ? "✓" : "○"}</span> {text}
      <span class="hidden">{done ? ", done" : ", to do"}</span>
    </li>
  );
}

function Totals({ rows, pods, objectives }: { rows: StatRow[]; pods: Pod[] | undefined; objectives: Answer | undefined }) {
  const has = figures(total(rows));
  const slowest = Math.max(0, ...rows.map((row) => figures(row.stats)?.p99 ?? 0));
  const meshed = pods?.filter((pod) => pod.meshed).length ?? 0;
  return (
    <dl class="tiles">
      <Tile name="Success rate">{has ? percent(has.success) : NONE}</Tile>
      <Tile name="Requests per second">{has ? rate(has.rps) : NONE}</Tile>
      <Tile name="Highest p99">{has ? percentile(slowest) : NONE}</Tile>
      <Tile name="TLS">{has ? wholePercent(has.tls) : NONE}</Tile>
      <Tile name="Alerts">{objectives ? firing(objectives) : NONE}</Tile>
      <Tile name="Meshed pods">{pods ? `${meshed} / ${pods.length}` : NONE}</Tile>
    </dl>
  );
}

/** Rates add up, percentiles do not. */
function total(rows: StatRow[]): Stats | null {
  const all = rows.flatMap((row) => row.stats ?? []);
  const sum = (key: "successCount" | "failureCount" | "tlsCount") => String(all.reduce((sum, stats) => sum + Number(stats[key]), 0));
  const first = all[0];
  if (!first) return null;
  // The time by which the sum is the sum of the rates: not all of them were counted over the same.
  const counted = (stats: Stats) => Number(stats.successCount) + Number(stats.failureCount);
  const perMs = all.reduce((sum, stats) => sum + counted(stats) / Math.max(1, stats.windowMs), 0);
  const windowMs = perMs > 0 ? all.reduce((sum, stats) => sum + counted(stats), 0) / perMs : first.windowMs;
  return { ...first, windowMs, successCount: sum("successCount"), failureCount: sum("failureCount"), tlsCount: sum("tlsCount") };
}

/** The pods of what has come with the control plane, which are beside its own: on one machine there are none. */
function addons(members: Member[], pods: Pod[]): { title: string; pods: Pod[] }[] {
  const of = (name: string) => pods.filter((pod) => pod.workload?.kind === "statefulset" && pod.name === name).map((pod) => pod.namespace);
  const [first = [], ...others] = members.map((member) => of(member.name));
  // Somebody else may have a pod of such a name, and hardly all of them.
  const own = first.find((namespace) => others.every((namespaces) => namespaces.includes(namespace)));
  const beside = pods.filter((pod) => pod.namespace === own && pod.workload?.kind === "deployment");
  const all = Object.entries(ADDONS).map(([name, title]) => ({ title, pods: beside.filter((pod) => pod.workload?.name === name) }));
  return all.filter((addon) => addon.pods.length > 0);
}

function ControlPlane({ members, pods, live }: { members: Member[] | undefined; pods: Pod[]; live: Live }) {
  if (!members) return <Missing live={live} part="raft" what="controllers" />;
  const others = addons(members, pods);
  const stateOf = (member: Member) => (member.role === "unreachable" ? "bad" : "good");
  return (
    <div class="scroll">
      <table>
        <thead>
          <tr>
            <th scope="col">Deployment</th>
            <th scope="col" class="number">
              Pods
            </th>
            <th scope="col">Pod status</th>
          </tr>
        </thead>
        <tbody>
          <tr class="summary">
            <td colSpan={3}>Components: {COMPONENTS.length + others.length + 1}</td>
          </tr>
          {COMPONENTS.map((component) => (
            <tr key={component}>
              <td>Controller {component}</td>
              <td class="number">{members.length}</td>
              <td>
                {members.map((member) => (
                  <Dot key={member.id} state={stateOf(member)} label={`${member.name}: ${member.role}`} />
                ))}
              </td>
            </tr>
          ))}
          {others.map(({ title, pods }) => (
            <tr key={title}>
              <td>{title}</td>
              <td class="number">{pods.length}</td>
              <td>
                {pods.map((pod) => (
                  <Dot key={pod.name} state={pod.ready ? "good" : "bad"} label={`${pod.name}: ${pod.ready ? "ready" : "not ready"}`} />
                ))}
              </td>
            </tr>
          ))}
          <tr>
            <td>Web UI</td>
            <td class="number">1</td>
            <td>
              <Dot state={live.lost ? "bad" : "good"} label={live.lost ? "not connected" : "this page"} />
            </td>
          </tr>
        </tbody>
      </table>
    </div>
  );
}

function Details({ live, workloads }: { live: Live; workloads: Added }) {
  const { version, raft, ca, pods } = live.parts;
  const details: [string, string | number | undefined][] = [
    ["Conduit version", version?.version],
    ["Control plane components", COMPONENTS.length + addons(raft?.members ?? [], pods?.pods ?? []).length + 1],
    ["Controllers", raft && `${raft.members.filter((member) => member.role !== "unreachable").length} of ${raft.members.length} answer`],
    ["Added deployments", pods && workloads.meshed],
    ["Unadded deployments", pods && workloads.all - workloads.meshed],
    ["Data plane proxies", pods && workloads.proxies],
    ["Revision", raft?.revision],
    ["Trust domain", ca?.trustDomain],
  ];
  return (
    <div class="scroll">
      <table>
        <thead>
          <tr>
            <th scope="col">Name</th>
            <th scope="col">Value</th>
          </tr>
        </thead>
        <tbody>
          {details.map(([name, value]) => (
            <tr key={name}>
              <td>{name}</td>
              <td>{value ?? NONE}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Deployments({ rows }: { rows: StatRow[] }) {
  const columns: Column<StatRow>[] = [
    { title: "NAMESPACE", value: (row) => row.resource.namespace },
    { title: "NAME", value: (row) => row.resource.name, show: (row) => <Link to={row.resource} /> },
    ...figureColumns<StatRow>((row) => row.stats),
  ];
  const key = (row: StatRow) => `${row.resource.namespace}/${row.resource.name}`;
  return (
    <Table
      caption="Deployments at a glance"
      columns={columns}
      rows={rows}
      rowKey={key}
      empty="No deployment has traffic yet."
      sort={{ column: 2, down: false }}
    />
  );
}
