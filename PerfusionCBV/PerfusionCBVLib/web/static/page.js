// What the page does by itself: uploads, downloads, keys, and saying when the connection is lost.
window.perfusion = (() => {
  const trigger = (name, args = []) => window.trame.trigger(name, args);
  const set = (name, value) => window.trame.state.set(name, value);
  const get = (name) => window.trame.state.get(name);

  const tell = (where, text) => set("errors", { ...get("errors"), [where]: text });

  // Plotly is large: it comes when the first picture is there, or a curve asks for it.
  let plotly = null;
  function load_plotly() {
    plotly ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = get("plotly_script");
      script.onload = () => window.trame_plotly.install({ component: (_name, content) => resolve(content) });
      script.onerror = () => reject(new Error("the script of the plots did not arrive"));
      document.head.append(script);
    });
    return plotly;
  }

  function install(app) {
    app.component("lazy-plotly", window.Vue.defineAsyncComponent(load_plotly));
    setTimeout(load_plotly, 5000);
  }

  async function upload(input, kind, trigger_name) {
    const files = [...input.files];
    input.value = "";
    if (!files.length) return;
    const where = kind === "series" ? "open" : kind;
    const batch = [...crypto.getRandomValues(new Uint8Array(8))].map((b) => b.toString(16).padStart(2, "0")).join("");
    tell(where, "");
    const limit = get("upload_limit_mb") * 1024 * 1024;
    if (files.reduce((sum, file) => sum + file.size, 0) > limit) {
      return tell(where, `The files are larger than ${get("upload_limit_mb")} MB, which this server accepts at most.`);
    }
    set("progress_text", "Uploading");
    for (const file of files) {
      let answer;
      try {
        answer = await fetch(`upload/${batch}/${encodeURIComponent(file.name)}`, { method: "POST", body: file });
      } catch {
        return tell(where, "The upload was interrupted. Check the connection and upload the file again.");
      }
      if (!answer.ok) return tell(where, (await answer.text()) || "The server refused the upload.");
    }
    trigger(trigger_name, [batch, kind]);
  }

  async function end() {
    if (!confirm("End this session? Everything that was uploaded or computed in it is deleted on the server.")) return;
    const answer = await fetch("end", { method: "POST" });
    document.open();
    document.write(await answer.text());
    document.close();
  }

  const help = () => document.getElementById("help").showModal();
  const press = (event) => {
    if (event.key === "Enter" || event.key === " ") event.currentTarget.querySelector("input").click();
  };

  let shown_opacity = 0.7;
  let under_mouse = "Red";
  document.addEventListener("mouseover", (event) => {
    const cell = event.target.closest?.("[data-view]");
    if (!cell) return;
    under_mouse = cell.dataset.view;
    // Keys go to the view under the mouse, as in Slicer, and no longer to the list or slider that was used before.
    if (document.activeElement?.matches("select, input:not([type=text], [type=number])")) document.activeElement.blur();
  });
  document.addEventListener("focusin", (event) => {
    const cell = event.target.closest?.("[data-view]");
    if (cell) under_mouse = cell.dataset.view;
  });

  const keys = {
    ArrowUp: () => trigger("step", [under_mouse, 1]),
    ArrowDown: () => trigger("step", [under_mouse, -1]),
    PageUp: () => trigger("step", [under_mouse, 5]),
    PageDown: () => trigger("step", [under_mouse, -5]),
    f: () => trigger("fit"),
    c: () => get("has_map") && set("view", get("view") === "compare" ? "series" : "compare"),
    w: () => set("mouse", "window"),
    r: () => set("mouse", "look"),
    l: () => set("legend", !get("legend")),
    o: () => {
      if (get("opacity") > 0) shown_opacity = get("opacity");
      set("opacity", get("opacity") > 0 ? 0 : shown_opacity);
    },
    "?": help,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("select, input[type=text], input[type=number], dialog *")) return;
    if (event.target.matches("input, summary") && event.key.length > 1) return; // arrows move sliders and choices
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  // A file that the server has ready is fetched once; after a reload of the page its link is still there.
  let fetched = null;
  new MutationObserver(() => {
    const link = document.getElementById("ready");
    const href = link?.getAttribute("href") ?? "";
    if (fetched === null) fetched = document.querySelector(".whole") ? href : null;
    else if (href && href !== fetched) {
      fetched = href;
      link.click();
    }
  }).observe(document.documentElement, { childList: true, subtree: true, attributes: true, attributeFilter: ["href"] });

  // The page's own socket is trame's; this one request in a while only asks whether the server still answers.
  let lost = null;
  setInterval(async () => {
    let text = "";
    try {
      const answer = await fetch("perfusion/alive.txt", { cache: "no-store" });
      if (!answer.ok) text = "This session has ended on the server. Reload the page to start a new one.";
    } catch {
      text = "The server does not answer. Check the connection; reload the page when it is back.";
    }
    if (text && !lost) {
      lost = document.createElement("p");
      lost.className = "error lost";
      lost.setAttribute("role", "alert");
      document.body.append(lost);
    }
    if (lost) text ? (lost.textContent = text) : (lost.remove(), (lost = null));
  }, 15000);

  return { install, upload, end, help, press };
})();
