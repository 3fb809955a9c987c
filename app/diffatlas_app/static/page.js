// What the page itself does in the browser: where the keyboard is, and links that are copied instead of followed.

// Run and Stop hand the focus to each other: the button that was pressed is disabled, which would leave it nowhere.
function handOver() {
  const run = document.querySelector("#run");
  const stop = document.querySelector("#stop");
  if (!run || !stop) return;
  const lost = () => [document.body, run, stop, null].includes(document.activeElement);
  if (run.disabled && !stop.disabled && lost() && handOver.held) stop.focus();
  if (!run.disabled && stop.disabled && lost() && handOver.held) run.focus();
}

document.addEventListener("click", (event) => {
  if (event.target.closest?.("#run, #stop")) handOver.held = true;
  else if (!event.target.closest?.("#transport")) handOver.held = false;
});
new MutationObserver(handOver).observe(document.documentElement, {
  subtree: true,
  attributes: true,
  attributeFilter: ["disabled"],
});

// Arrow keys walk through a group of choices, as in any form; gradio gives the choices of one group different names.
document.addEventListener("keydown", (event) => {
  const radio = event.target;
  if (radio.type !== "radio") return;
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const group = radio.closest("fieldset, [role=radiogroup], .block");
  if (!step || !group) return;
  const choices = [...group.querySelectorAll("input[type=radio]:not(:disabled)")];
  const next = choices[(choices.indexOf(radio) + step + choices.length) % choices.length];
  event.preventDefault();
  next.focus();
  next.click();
});

// A link to these settings is copied: to follow it would throw away the run that is on the page.
document.addEventListener("click", async (event) => {
  const link = event.target.closest?.("a[data-copy]");
  if (!link) return;
  event.preventDefault();
  const address = new URL(link.getAttribute("href"), document.baseURI).href;
  const words = link.dataset.words || (link.dataset.words = link.textContent);
  try {
    await navigator.clipboard.writeText(address);
    link.textContent = "Copied";
  } catch {
    window.prompt("The link to these settings:", address); // a browser that lets no page copy
  }
  setTimeout(() => (link.textContent = words), 2500);
});

// The teaching site stands in a frame of its own, as high as what is in it: one scroll bar, not two.
function fit(frame) {
  const page = frame.contentDocument?.body;
  if (!page) return;
  const set = () => {
    const height = Math.ceil(page.getBoundingClientRect().height);
    if (height > 0) frame.style.height = `${height}px`;
  };
  new ResizeObserver(set).observe(page);
  set();
}
document.addEventListener(
  "load",
  (event) => {
    if (event.target.id === "learn-frame") fit(event.target);
  },
  true,
);
