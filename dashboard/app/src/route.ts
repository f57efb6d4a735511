// Where one is: the part of the address after `#`, so that any path may be in front of it.

import { useEffect, useState } from "preact/hooks";

export interface Place {
  page: string;
  /** Of a page about one resource. */
  kind: string;
  namespace: string;
  name: string;
}

export const KINDS = ["namespace", "deployment", "pod"];

export function parse(hash: string): Place {
  const parts = hash.replace(/^#?\/?/, "").split("/").map(decode);
  const [page = "", ...rest] = parts;
  if (KINDS.includes(page)) {
    const [first = "", second = ""] = rest;
    const name = page === "namespace" ? first : second;
    if (name) return { page: "resource", kind: page, namespace: page === "namespace" ? "" : first, name };
  }
  return { page: page || "overview", kind: "", namespace: "", name: "" };
}

export function linkTo(kind: string, namespace: string, name: string): string {
  const parts = kind === "namespace" ? [kind, name] : [kind, namespace, name];
  return `#/${parts.map(encodeURIComponent).join("/")}`;
}

export function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function usePlace(): Place {
  const [place, go] = useState(() => parse(location.hash));
  useEffect(() => {
    const changed = () => go(parse(location.hash));
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return place;
}
