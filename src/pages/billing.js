// Keeps the figures current. The page is whole without this script.
(() => {
  const live = document.getElementById("live");
  const status = document.getElementById("status");
  if (!live || !window.EventSource) return;

  const total = () => live.querySelector("#total")?.textContent ?? "";

  // What the reader has opened, and where they are, stays as it is.
  const replace = (html) => {
    const opened = [...live.querySelectorAll("details[open]")].map((details) => details.id);
    const focused = document.activeElement?.closest?.("details")?.id;
    const before = total();
    const fresh = new DOMParser().parseFromString(html, "text/html");
    live.replaceChildren(...fresh.body.childNodes);
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    if (focused) document.getElementById(focused)?.querySelector("summary")?.focus({ preventScroll: true });
    if (total() === before) return;
    live.querySelector("#total")?.classList.add("changed");
    if (status) status.textContent = `The total is now ${total()}`;
  };

  const connected = (yes) => document.documentElement.classList.toggle("is-live", yes);
  const source = new EventSource(`/billing/events?since=${encodeURIComponent(live.dataset.version ?? "")}`);
  source.addEventListener("open", () => connected(true));
  source.addEventListener("error", () => connected(false));
  source.addEventListener("billing", (event) => replace(event.data));
  source.addEventListener("ended", () => { source.close(); connected(false); });
})();
