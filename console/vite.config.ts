import { defineConfig } from "vite";

// The program serves the build below /console/; while `npm run dev` runs, its API is asked at OLIVEIRA_URL.
const api = process.env.OLIVEIRA_URL ?? "http://127.0.0.1:8000";

export default defineConfig({
  base: "/console/",
  build: { outDir: "../oliveira/console/static", emptyOutDir: true, modulePreload: { polyfill: false } },
  server: { proxy: { "/admin": api, "/v1": api } },
});
