import { Link, Section } from "../bits";
import { NONE } from "../figures";
import { type Column, Table } from "../table";
import type { FailingPod, Pods } from "../wire";

interface Row {
  pod: FailingPod;
  name: string;
  image: string;
  reason: string;
  message: string;
}

/** Pods that do not run as they should, and why; nothing while all do. */
export function Failing({ of, which = () => true }: { of: Pods | undefined; which?: (pod: FailingPod) => boolean }) {
  const pods = (of?.failing ?? []).filter(which);
  if (pods.length === 0) return null;
  const rows: Row[] = pods.flatMap((pod) => pod.containers.map((container) => ({ pod, ...container })));
  const columns: Column<Row>[] = [
    { title: "NAMESPACE", value: (row) => row.pod.namespace },
    { title: "POD", value: (row) => row.pod.name, show: (row) => <Link to={{ kind: "pod", namespace: row.pod.namespace, name: row.pod.name }} /> },
    { title: "CONTAINER", value: (row) => row.name || NONE },
    { title: "IMAGE", value: (row) => row.image || NONE },
    { title: "REASON", value: (row) => row.reason },
    { title: "MESSAGE", value: (row) => row.message, wide: true },
  ];
  return (
    <Section title="Failing pods">
      <Table caption="Failing pods" columns={columns} rows={rows} rowKey={(row) => `${row.pod.namespace}/${row.pod.name}/${row.name}`} empty="" />
      {of?.moreFailing && <p class="note">More pods fail than are shown. <code>kubectl get pods -A</code> lists them.</p>}
    </Section>
  );
}
