import { defineConfig } from "vite";

export default defineConfig({
  // Any path may be in front of it.
  base: "./",
  build: {
    target: "es2022",
    // The policy of the pages forbids what is inline.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: {
    // `npm run dev` beside `conduit dashboard -p 8084 --show url`.
    proxy: { "/api": { target: "http://127.0.0.1:8084", changeOrigin: true, headers: { origin: "http://127.0.0.1:8084" } } },
  },
});
