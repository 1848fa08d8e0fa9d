// The few things of the chat page that must not wait for the server.
window.gristmill = (() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const remembered = () => { try { return localStorage.getItem("gristmill-theme"); } catch { return null; } };
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => { root.dataset.theme = remembered() || (preferred.matches ? "dark" : "light"); };
  apply();
  preferred.addEventListener("change", apply);

  const theme = () => {
    const next = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("gristmill-theme", next); } catch { /* private window */ }
    root.dataset.theme = next;
  };

  const panel = (open) => {
    // Kept on the root element: what NiceGUI renders would be reset with its next update.
    const opens = open ?? root.dataset.panel !== "open";
    root.dataset.panel = opens ? "open" : "closed";
    if (opens) byId("panel")?.querySelector("textarea")?.focus();
    else focusComposer();
  };

  let note;
  const announce = (message) => {
    note?.remove();
    note = Object.assign(document.createElement("div"), { className: "toast", textContent: message });
    note.setAttribute("role", "status");
    document.body.append(note);
    setTimeout(() => note?.remove(), 2200);
  };

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    announce("Copied.");
  };

  const focusComposer = () => byId("message")?.focus();
  const focusEditor = () => {
    const area = document.querySelector(".editor textarea");
    area?.focus();
    area?.setSelectionRange(area.value.length, area.value.length);
  };

  const submit = (emit) => {
    const area = byId("message");
    if (document.querySelector(".app.busy") || !area.value.trim()) return;
    emit(area.value);
    area.value = "";
    grow(area);
  };
  const submitKey = (event, emit) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (event.target.id === "message") submit(emit);
    else emit(event.target.value);
  };

  const grow = (area) => {
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight, innerHeight * 0.4)}px`;
  };

  // Stay at the end while an answer grows, unless the person scrolled up to read.
  let pinned = true;
  const follow = () => { pinned = true; const box = byId("scroll"); if (box) box.scrollTop = box.scrollHeight; };
  const start = () => {
    const box = byId("scroll");
    if (!box || box.dataset.started) return;
    box.dataset.started = "yes";
    box.addEventListener("scroll", () => {
      pinned = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
    }, { passive: true });
    new MutationObserver(() => { if (pinned) box.scrollTop = box.scrollHeight; })
      .observe(box, { childList: true, subtree: true, characterData: true });
    byId("message").addEventListener("input", (event) => grow(event.target));
    if (matchMedia("(min-width: 720px)").matches) focusComposer();
  };

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (document.querySelector(".app.busy")) document.querySelector("button.stop")?.click();
    else if (root.dataset.panel === "open") panel(false);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".copy-code");
    if (button) copy(button.closest(".code").querySelector("pre").innerText);
    const link = event.target.closest?.(".prose a[href]");
    if (link) { event.preventDefault(); window.open(link.href, "_blank", "noopener,noreferrer"); }
  });

  return { announce, copy, focusComposer, focusEditor, follow, panel, start, submit, submitKey, theme };
})();
