import { useEffect, useState } from "preact/hooks";

import { ask } from "../api";
import { Dot, Missing, Section, Tile } from "../bits";
import { distance, moment, NONE } from "../figures";
import type { Live } from "../live";
import { type Column, Table } from "../table";
import type { Ca, Check, Member, Pods, Raft } from "../wire";

/** The replicas, what they agree on, and whom the mesh trusts. */
export function Control({ live }: { live: Live }) {
  const { raft, ca } = live.parts;
  return (
    <>
      <h1>Control plane</h1>
      {raft ? <Replicas raft={raft} /> : <Missing live={live} part="raft" what="replicas" />}
      {live.parts.pods ? <Proxies of={live.parts.pods} /> : <Missing live={live} part="pods" what="proxies" />}
      {ca ? <Authority ca={ca} /> : <Missing live={live} part="ca" what="the certificate authority" />}
      <Checks />
    </>
  );
}

function Replicas({ raft }: { raft: Raft }) {
  const leader = raft.members.find((member) => member.id === raft.leaderId);
  const columns: Column<Member>[] = [
    {
      title: "NAME",
      value: (member) => member.name,
      show: (member) => (
        <>
          <Dot state={member.role === "unreachable" ? "bad" : member.role === "candidate" ? "fair" : "good"} label={member.role} /> {member.name}
        </>
      ),
    },
    { title: "ROLE", value: (member) => member.role },
    { title: "ID", value: (member) => member.id, show: (member) => <code>{member.id}</code> },
    { title: "TERM", numeric: true, value: (member) => Number(member.term) },
    { title: "APPLIED", numeric: true, value: (member) => Number(member.appliedIndex) },
    { title: "LAG", numeric: true, value: (member) => (member.lag == null ? null : Number(member.lag)), show: (member) => member.lag ?? NONE },
    { title: "ADDRESS", value: (member) => member.address },
    { title: "PID", numeric: true, value: (member) => member.pid ?? null, show: (member) => member.pid ?? NONE },
  ];
  return (
    <Section title="Replicas">
      <dl class="tiles">
        <Tile name="Leader">{leader?.name ?? <span class="success bad">none</span>}</Tile>
        <Tile name="Term">{raft.term}</Tile>
        <Tile name="Revision">{raft.revision}</Tile>
        <Tile name="Voters">{raft.members.filter((member) => member.voter).length}</Tile>
        <Tile name="Answered by">{raft.members.find((member) => member.id === raft.answeredBy)?.name ?? raft.answeredBy}</Tile>
      </dl>
      <Table caption="Replicas" columns={columns} rows={raft.members} rowKey={(member) => member.id} empty="There are none." />
    </Section>
  );
}

interface Acknowledged {
  revision: string;
  names: string[];
}

/** Whoever wants to know which ones asks `conduit pods`. */
const NAMES_MAX = 5;

/** What proxies have acknowledged. */
function Proxies({ of }: { of: Pods }) {
  const connected = of.pods.filter((pod) => pod.connected);
  const by = new Map<string, string[]>();
  for (const { ackedRevision, namespace, name } of connected) by.set(ackedRevision, [...(by.get(ackedRevision) ?? []), `${namespace}/${name}`]);
  const rows = [...by].map(([revision, names]) => ({ revision, names }));
  const some = ({ names }: Acknowledged) => names.slice(0, NAMES_MAX).join(", ") + (names.length > NAMES_MAX ? `, and ${names.length - NAMES_MAX} more` : "");
  return (
    <Section title="Proxies">
      <dl class="tiles">
        <Tile name="Meshed pods">{of.pods.filter((pod) => pod.meshed).length}</Tile>
        <Tile name="Connected">{connected.length}</Tile>
        <Tile name="Newest revision">{of.revision}</Tile>
      </dl>
      <p class="dim">
        A proxy acknowledges what it is told, and is told what concerns it: one at an older revision may have all of it. <code>conduit wait --revision {of.revision}</code>{" "}
        says when all have taken it.
      </p>
      <Table
        caption="Acknowledged revisions"
        columns={[
          { title: "REVISION", numeric: true, value: (row: Acknowledged) => Number(row.revision), show: (row) => row.revision },
          { title: "PROXIES", numeric: true, value: (row) => row.names.length },
          { title: "WHICH", value: some, wide: true },
        ]}
        rows={rows}
        rowKey={(row) => row.revision}
        sort={{ column: 0, down: true }}
        empty="No proxy is connected."
      />
    </Section>
  );
}

const short = (id: string) => <code title={id}>{id.slice(0, 16)}</code>;

/** Later than this, one looks at it. */
const SOON_MS = 60 * 86_400_000;

function Until({ ms, soon = 0 }: { ms: string; soon?: number }) {
  // Who has none, or cannot be asked.
  if (Number(ms) === 0) return <span class="dim">{NONE}</span>;
  const left = Number(ms) - Date.now();
  const state = left <= 0 ? "bad" : left < soon ? "fair" : "";
  return (
    <span class={state && `success ${state}`} title={moment(ms)}>
      {distance(ms)}
    </span>
  );
}

function Authority({ ca }: { ca: Ca }) {
  const roots: Column<Ca["roots"][number]>[] = [
    { title: "ID", value: (root) => root.id, show: (root) => short(root.id) },
    { title: "STATE", value: (root) => root.state },
    { title: "ORIGIN", value: (root) => (root.imported ? "imported" : "own") },
    { title: "SINCE", value: (root) => Number(root.sinceMs), show: (root) => <span title={moment(root.sinceMs)}>{distance(root.sinceMs)}</span> },
    { title: "EXPIRES", value: (root) => Number(root.notAfterMs), show: (root) => <Until ms={root.notAfterMs} soon={SOON_MS} /> },
  ];
  const issuers: Column<Ca["issuers"][number]>[] = [
    { title: "REPLICA", value: (issuer) => issuer.replica },
    { title: "ID", value: (issuer) => issuer.id, show: (issuer) => (issuer.id ? short(issuer.id) : NONE) },
    { title: "UNDER", value: (issuer) => issuer.root, show: (issuer) => (issuer.root ? short(issuer.root) : NONE) },
    { title: "EXPIRES", value: (issuer) => Number(issuer.notAfterMs), show: (issuer) => <Until ms={issuer.notAfterMs} /> },
    { title: "CLOCK", numeric: true, value: (issuer) => Number(issuer.clockOffsetMs), show: (issuer) => `${issuer.clockOffsetMs} ms` },
    { title: "REACHABLE", value: (issuer) => (issuer.reachable ? "yes" : "no") },
  ];
  return (
    <>
      <Section title="Certificate authority">
        <dl class="tiles">
          <Tile name="Trust domain">{ca.trustDomain}</Tile>
          <Tile name="Next rotation">{Number(ca.rotatesAtMs) ? <Until ms={ca.rotatesAtMs} /> : "by hand"}</Tile>
          <Tile name="Proxies">{ca.proxies}</Tile>
          <Tile name="First leaf expires">{distance(ca.firstProxyExpiresMs)}</Tile>
          <Tile name="Clocks apart">{ca.clockSkewMs} ms</Tile>
          <Tile name="Revoked issuers">{ca.revoked}</Tile>
        </dl>
        <Rotation ca={ca} />
        <h3>Roots</h3>
        <Table caption="Roots" columns={roots} rows={ca.roots} rowKey={(root) => root.id} empty="There is none yet." sort={{ column: 3, down: true }} />
        <h3>Issuers</h3>
        <Table caption="Issuers" columns={issuers} rows={ca.issuers} rowKey={(issuer) => issuer.replica} empty="There is none yet." />
      </Section>
      <div class="columns">
        <Section title="Federations">
          <Table
            caption="Federations"
            columns={[
              { title: "TRUST DOMAIN", value: (other: Ca["federated"][number]) => other.trustDomain },
              { title: "ROOTS", numeric: true, value: (other) => other.roots },
              { title: "JWT KEYS", numeric: true, value: (other) => other.jwtKeys },
              { title: "FIRST EXPIRES", value: (other) => Number(other.firstRootExpiresMs), show: (other) => <Until ms={other.firstRootExpiresMs} soon={SOON_MS} /> },
            ]}
            rows={ca.federated}
            rowKey={(other) => other.trustDomain}
            empty={
              <>
                No other trust domain is believed. <code>conduit ca federate DOMAIN --bundle-file FILE</code> adds one.
              </>
            }
          />
        </Section>
        <Section title="Denied identities">
          <Table
            caption="Denied identities"
            columns={[
              { title: "SPIFFE ID", value: (denied: Ca["denied"][number]) => denied.spiffeId },
              { title: "CONNECTIONS", value: (denied) => (denied.dropConnections ? "dropped" : "kept") },
              { title: "SINCE", value: (denied) => Number(denied.sinceMs), show: (denied) => <span title={moment(denied.sinceMs)}>{distance(denied.sinceMs)}</span> },
            ]}
            rows={ca.denied}
            rowKey={(denied) => denied.spiffeId}
            empty="Nobody is denied."
          />
        </Section>
      </div>
    </>
  );
}

const STEPS = ["prepare", "activate", "drop"];

function Rotation({ ca }: { ca: Ca }) {
  const rotation = ca.rotation;
  if (!rotation) return <p class="note dim">No rotation is in progress.</p>;
  return (
    <div class="note fair">
      <p>
        A rotation is in progress. Next: {rotation.step} {short(rotation.root)}
        {rotation.waitingFor > 0 && (
          <>
            , which waits for {rotation.waitingFor} of {ca.proxies} proxies and the replicas: {rotation.examples.join(", ")}
          </>
        )}
      </p>
      <progress max={STEPS.length} value={Math.max(0, STEPS.indexOf(rotation.step))} aria-label="Steps of the rotation that are taken" />
    </div>
  );
}

function Checks() {
  const [state, set] = useState<{ results?: Check[]; error?: string; busy: boolean }>({ busy: true });
  const run = () => {
    set((old) => ({ ...old, busy: true }));
    ask<{ results: Check[] }>("SelfCheck", {}).then(
      ({ results }) => set({ results, busy: false }),
      (error: Error) => set({ error: error.message, busy: false }),
    );
  };
  useEffect(run, []);
  return (
    <Section title="Checks">
      <p>
        <button type="button" onClick={run} disabled={state.busy}>
          {state.busy ? "Checking…" : "Check again"}
        </button>
      </p>
      {state.error && (
        <p class="note bad" role="status">
          The control plane cannot check itself: {state.error}
        </p>
      )}
      {state.results && (
        <ul class="checks">
          {state.results.map((check) => {
            const isWell = check.status === "STATUS_OK";
            return (
              <li key={check.subsystem + check.description}>
                <Dot state={isWell ? "good" : "bad"} label={isWell ? "ok" : "failed"} /> <span class="dim">{check.subsystem}</span>{" "}
                {check.description}
                {!isWell && check.message && <span class="success bad">: {check.message}</span>}
              </li>
            );
          })}
        </ul>
      )}
    </Section>
  );
}
