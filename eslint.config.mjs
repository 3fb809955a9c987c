// The rules for our own JavaScript (make lint-js). No plugins, so that eslint alone is enough.
const browser = `AbortController Blob CustomEvent DataView DecompressionStream CompressionStream DOMParser Event EventSource
  FileReader FormData HTMLElement Image ImageData IntersectionObserver MutationObserver OffscreenCanvas Path2D
  ReadableStream ResizeObserver Response TextDecoder TextEncoder URL URLSearchParams Worker atob btoa
  cancelAnimationFrame clearInterval clearTimeout console createImageBitmap customElements devicePixelRatio document
  fetch getComputedStyle history localStorage location matchMedia navigator performance queueMicrotask
  requestAnimationFrame requestIdleCallback sessionStorage setInterval setTimeout structuredClone addEventListener window`;

export default [
  {
    files: ["app/diffatlas_app/static/**/*.js", "tests/web/**/*.mjs"],
    languageOptions: {
      ecmaVersion: 2023,
      sourceType: "module",
      globals: Object.fromEntries([...browser.split(/\s+/), "process"].map((name) => [name, "readonly"])),
    },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "no-undef": "error",
      "no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
      "no-var": "error",
      "prefer-const": ["error", { destructuring: "all" }],
      eqeqeq: ["error", "always", { null: "ignore" }],
      "no-shadow-restricted-names": "error",
      "no-redeclare": "error",
      "no-unreachable": "error",
      "no-dupe-keys": "error",
      "no-fallthrough": "error",
      "no-implied-eval": "error",
      "no-eval": "error",
      "no-self-compare": "error",
      "use-isnan": "error",
      "valid-typeof": "error",
    },
  },
];
