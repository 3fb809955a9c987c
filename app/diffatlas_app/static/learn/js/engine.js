// The engine behind the page: a call, and what it says until its answer.

/**
 * Call `name` of the engine at `base` with `data`, a list. `heard` gets every object that comes back, the last one with
 * an answer or with {error}. Returns a function that leaves: the engine stops within a step, and nothing more is heard.
 */
export function callEngine(base, name, data, heard) {
  let source = null, over = false;
  const leave = () => {
    over = true;
    source?.close();
  };
  const end = (value) => {
    if (over) return;
    leave();
    heard(value);
  };
  const listen = (id) => {
    let last = null;
    source = new EventSource(`${base}gradio_api/call/${name}/${id}`);
    source.addEventListener("generating", (event) => {
      [last] = JSON.parse(event.data);
      if (!over) heard(last);
    });
    source.addEventListener("complete", () => end({ ...last, over: true }));
    // Of the call, or of the connection: after either nothing more comes.
    source.addEventListener("error", () => end({ error: "" }));
  };
  fetch(`${base}gradio_api/call/${name}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ data }) })
    .then(async (answer) => {
      const said = await answer.json();
      if (!answer.ok) end({ error: said.error ?? "" });
      else if (!over) listen(said.event_id);
    })
    .catch(() => end({ error: "" }));
  return leave;
}
