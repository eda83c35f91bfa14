// The invitation stands behind the `#`: a browser sends that part to nobody, so it is in no log.
const form = document.getElementById("join");
const problem = document.getElementById("problem");
const invitation = location.hash.slice(1);
history.replaceState(null, "", location.pathname);

const refuse = (text) => {
  problem.textContent = text;
  problem.hidden = false;
};

if (!invitation) {
  refuse("The link is not whole: open it as it was given to you.");
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.hidden = true;
  const fields = new FormData(form);
  const body = {
    invitation,
    name: fields.get("name"),
    password: fields.get("password"),
  };
  if (fields.get("email")) {
    body.email = fields.get("email");
  }
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const response = await fetch("api/v1/invitations/accept", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    if (response.ok) {
      form.hidden = true;
      document.getElementById("done").hidden = false;
    } else {
      refuse((await response.json()).detail);
    }
  } catch {
    refuse("The server cannot be reached.");
  } finally {
    button.disabled = false;
  }
});
