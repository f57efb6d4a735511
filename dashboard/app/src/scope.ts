// Which namespace is looked at: who has rights in one only sees that one, and who has all may want to see less.

import { createContext } from "preact";

import type { Parts } from "./wire";

const KEY = "conduit-namespace";

/** The namespace; all of them if it is empty. */
export const Scope = createContext("");

/** As it was chosen in this tab. */
export function storedScope(): string {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // Storage may be forbidden.
  }
}

export function storeScope(namespace: string): void {
  try {
    sessionStorage.setItem(KEY, namespace);
  } catch {
    // Then it holds until the page is loaded again.
  }
}

/** What is of no namespace, and not asked for within one. */
const OF_THE_MESH: (keyof Parts)[] = ["version", "raft", "ca", "routes", "history"];

export const isOfTheMesh = (part: keyof Parts): boolean => OF_THE_MESH.includes(part);
