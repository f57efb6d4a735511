// Who calls whom, drawn. The table of the same beside it says it in words.

import { figures, health, nameOf, NONE, percent, percentile, rate } from "./figures";
import { layered, type Laid } from "./graph";
import { KINDS, linkTo } from "./route";
import { type Column, Table } from "./table";
import { figureColumns, Link } from "./bits";
import type { Edge, Ref, StatRow } from "./wire";

const WIDTH = 168;
const HEIGHT = 44;
const GAP_X = 120;
const GAP_Y = 22;
const MARGIN = 10;

/** More nodes are a tangle that nobody reads; the table has them all. */
const NODES_MAX = 60;

/** Nearer to the end at which an edge is alone, so that what is said of one does not cover another. */
const LABEL_NEAR = 0.66;

/** Room below the boxes for edges that lead back. */
const BACK = 46;

/** So many characters fit into a box. */
const NAME_MAX = 23;

const keyOf = (ref: Ref): string => `${ref.kind}/${ref.namespace}/${ref.name}`;

interface Props {
  edges: Edge[];
  /** What is known of the nodes. */
  rows: StatRow[];
  /** The one that the page is about: only its neighbours are shown. */
  about?: Ref;
}

export function Topology({ edges, rows, about }: Props) {
  const near = about ? edges.filter((edge) => [edge.source, edge.destination].some((end) => keyOf(end) === keyOf(about))) : edges;
  if (near.length === 0) return <p class="note dim">Nobody has called anybody here in this window.</p>;
  const nodes = new Map(near.flatMap((edge) => [edge.source, edge.destination]).map((ref) => [keyOf(ref), ref]));
  return (
    <>
      {nodes.size > NODES_MAX ? (
        <p class="note dim">
          {nodes.size} resources are too many for a picture: open one of them, or a namespace, to see whom it speaks with.
        </p>
      ) : (
        <Picture nodes={nodes} edges={near} rows={rows} about={about} />
      )}
      <EdgeTable edges={near} />
    </>
  );
}

function Picture({ nodes, edges, rows, about }: { nodes: Map<string, Ref>; edges: Edge[]; rows: StatRow[]; about?: Ref }) {
  const layers = layered(
    nodes,
    edges.map((edge) => [keyOf(edge.source), keyOf(edge.destination)]),
  );
  const tallest = Math.max(...layers.map((layer) => layer.length));
  const boxes = tallest * (HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN;
  const width = layers.length * (WIDTH + GAP_X) - GAP_X + 2 * MARGIN;
  const places: Places = new Map();
  for (const layer of layers) {
    const top = (boxes - layer.length * (HEIGHT + GAP_Y) + GAP_Y) / 2;
    for (const { node, layer: column, at } of layer) {
      places.set(keyOf(node), { x: MARGIN + column * (WIDTH + GAP_X), y: top + at * (HEIGHT + GAP_Y) });
    }
  }
  const leadsBack = edges.some((edge) => (places.get(keyOf(edge.destination))?.x ?? 0) <= (places.get(keyOf(edge.source))?.x ?? 0));
  const height = boxes + (leadsBack ? BACK : 0);
  const count = (end: (edge: Edge) => Ref, of: Ref) => edges.filter((edge) => keyOf(end(edge)) === keyOf(of)).length;
  const labelAt = (edge: Edge) =>
    count((edge) => edge.source, edge.source) >= count((edge) => edge.destination, edge.destination) ? LABEL_NEAR : 1 - LABEL_NEAR;
  const severalNamespaces = new Set([...nodes.values()].map((ref) => ref.namespace)).size > 1;
  return (
    <div class="scroll picture" role="region" aria-label="Topology" tabIndex={0}>
      <svg viewBox={`0 0 ${width} ${height}`} width={width} height={height} aria-label="Who calls whom; the table below says the same">
        {edges.map((edge) => (
          <Arrow key={keyOf(edge.source) + keyOf(edge.destination) + edge.clientId} edge={edge} places={places} labelAt={labelAt(edge)} below={boxes} />
        ))}
        {layers.flat().map((laid: Laid<Ref>) => {
          const row = rows.find((row) => keyOf(row.resource) === keyOf(laid.node));
          const place = places.get(keyOf(laid.node)) ?? { x: 0, y: 0 };
          const isIt = about !== undefined && keyOf(about) === keyOf(laid.node);
          return <Box key={keyOf(laid.node)} node={laid.node} row={row} {...place} isIt={isIt} withNamespace={severalNamespaces} />;
        })}
      </svg>
    </div>
  );
}

interface BoxProps {
  node: Ref;
  row: StatRow | undefined;
  x: number;
  y: number;
  isIt: boolean;
  withNamespace: boolean;
}

function Box({ node, row, x, y, isIt, withNamespace }: BoxProps) {
  const has = figures(row?.stats);
  const says = has ? `${percent(has.success)}  ${rate(has.rps)} rps` : row ? "no requests" : node.kind;
  const name = withNamespace ? nameOf(node) : node.name;
  const shown = name.length > NAME_MAX ? `${name.slice(0, NAME_MAX - 1)}…` : name;
  const inner = (
    <>
      <title>{`${node.kind} ${nameOf(node)}`}</title>
      <rect class="ground" width={WIDTH} height={HEIGHT} rx="4" />
      <rect class={`bar ${health(has?.success)}`} width="4" height={HEIGHT} rx="2" />
      <text x="14" y="18" class="name">
        {shown}
      </text>
      <text x="14" y="34" class="says">
        {says}
      </text>
    </>
  );
  return (
    <g transform={`translate(${x} ${y})`} class={isIt ? "box it" : "box"}>
      {KINDS.includes(node.kind) && node.name ? (
        <a href={linkTo(node.kind, node.namespace, node.name)}>
          {inner}
        </a>
      ) : (
        inner
      )}
    </g>
  );
}

type Places = Map<string, { x: number; y: number }>;

/** Four points of a cubic Bézier curve: from side to side, or, back, from below to below. */
function curve(from: { x: number; y: number }, to: { x: number; y: number }, below: number): { xs: number[]; ys: number[]; head: string } {
  if (to.x > from.x) {
    const [x1, x2] = [from.x + WIDTH, to.x];
    const [y1, y2] = [from.y + HEIGHT / 2, to.y + HEIGHT / 2];
    const bend = Math.max(40, (x2 - x1) / 2);
    return { xs: [x1, x1 + bend, x2 - bend, x2], ys: [y1, y1, y2, y2], head: `M${x2} ${y2} l-7 -4 v8 z` };
  }
  const [x1, x2] = [from.x + WIDTH * 0.6, to.x + WIDTH * 0.4];
  const [y1, y2] = [from.y + HEIGHT, to.y + HEIGHT];
  const depth = below + BACK;
  return { xs: [x1, x1, x2, x2], ys: [y1, depth, depth, y2], head: `M${x2} ${y2} l-4 7 h8 z` };
}

function Arrow({ edge, places, labelAt, below }: { edge: Edge; places: Places; labelAt: number; below: number }) {
  const from = places.get(keyOf(edge.source));
  const to = places.get(keyOf(edge.destination));
  if (!from || !to) return null;
  const has = figures(edge.stats);
  const { xs, ys, head } = curve(from, to, below);
  const [mx, my] = along(labelAt, xs, ys);
  // Ten times the rate is a pixel and a half more.
  const thickness = 1.25 + 1.5 * Math.log10(1 + (has?.rps ?? 0));
  const kind = has ? health(has.success) : "none";
  return (
    <g class={`arrow-line ${kind} ${edge.secured ? "" : "open"}`}>
      <path d={`M${xs[0]} ${ys[0]} C${[1, 2, 3].map((i) => `${xs[i]} ${ys[i]}`).join(" ")}`} stroke-width={thickness} />
      <path class="head" d={head} />
      {edge.secured && <Padlock x={mx} y={my} />}
      <text x={mx} y={my - 11} text-anchor="middle">
        {has ? `${rate(has.rps)} rps` : "TCP"}
      </text>
      <title>{`${nameOf(edge.source)} calls ${nameOf(edge.destination)}: ${describe(edge)}`}</title>
    </g>
  );
}

/** A point of a cubic Bézier curve. */
function along(t: number, xs: number[], ys: number[]): [number, number] {
  const weights = [(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t ** 2, t ** 3];
  const sum = (of: number[]) => weights.reduce((sum, weight, i) => sum + weight * (of[i] ?? 0), 0);
  return [sum(xs), sum(ys)];
}

function Padlock({ x, y }: { x: number; y: number }) {
  return (
    <g transform={`translate(${x - 5} ${y - 6})`} class="padlock">
      <circle cx="5" cy="6" r="8.5" class="hole" />
      <path d="M2.5 5 V3.2 a2.5 2.5 0 0 1 5 0 V5" fill="none" stroke-width="1.4" />
      <rect x="1" y="5" width="8" height="6.2" rx="1" class="body" />
    </g>
  );
}

function describe(edge: Edge): string {
  const has = figures(edge.stats);
  const traffic = has ? `${percent(has.success)}, ${rate(has.rps)} rps, p99 ${percentile(has.p99)}` : "bytes only";
  return `${traffic}, ${edge.secured ? "mutual TLS" : edge.noTlsReason || "not secured"}`;
}

function EdgeTable({ edges }: { edges: Edge[] }) {
  const columns: Column<Edge>[] = [
    { title: "SRC", value: (edge) => nameOf(edge.source), show: (edge) => <Link to={edge.source} full /> },
    { title: "DST", value: (edge) => nameOf(edge.destination), show: (edge) => <Link to={edge.destination} full /> },
    ...figureColumns<Edge>((edge) => edge.stats),
    { title: "CLIENT ID", value: (edge) => edge.clientId, show: (edge) => <Identity id={edge.clientId} /> },
    { title: "SERVER ID", value: (edge) => edge.serverId, show: (edge) => <Identity id={edge.serverId} /> },
    {
      title: "SECURED",
      value: (edge) => (edge.secured ? "√" : edge.noTlsReason),
      show: (edge) => (edge.secured ? <span class="success good">√</span> : <span class="success fair">{edge.noTlsReason || "no"}</span>),
    },
  ];
  const key = (edge: Edge) => [keyOf(edge.source), keyOf(edge.destination), edge.clientId, edge.serverId, edge.noTlsReason].join(" ");
  return <Table caption="Edges" columns={columns} rows={edges} rowKey={key} empty="There are none." />;
}

function Identity({ id }: { id: string }) {
  if (!id) return <span class="dim">{NONE}</span>;
  return <span title={id}>{id.replace(/^spiffe:\/\/[^/]+/, "")}</span>;
}
