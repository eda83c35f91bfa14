// Passkeys come on top of pages that work without a script: their forms stay hidden where there are none.
const supported = typeof window.PublicKeyCredential?.parseCreationOptionsFromJSON === "function";

// What the server refuses, in its words.
class Refusal extends Error {}

const ceremonies = {
  create: ({ publicKey }) =>
    navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(publicKey) }),
  get: ({ publicKey }) =>
    navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(publicKey) }),
};

// The challenge that stands in the page, or a fresh one.
const ask = async (form) => {
  if (form.dataset.options) {
    return { challenge: form.elements.challenge.value, options: JSON.parse(form.dataset.options) };
  }
  const response = await fetch(form.dataset.ask, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: "{}",
  });
  const told = await response.json();
  if (!response.ok) {
    throw new Refusal(told.detail);
  }
  return told;
};

const sentence = (error) => {
  if (error instanceof Refusal) {
    return error.message;
  }
  switch (error.name) {
    case "NotAllowedError":
      return "Nothing came of it: it was cancelled, took too long, or there is no passkey for this.";
    case "InvalidStateError":
      return "This device has a passkey of your account already.";
    case "SecurityError":
      return "Passkeys do not work at this address: open the page by the address that this Control has.";
    case "NotSupportedError":
      return "This device cannot make such a passkey.";
    default:
      return `The passkey cannot be used: ${error.message}`;
  }
};

const run = async (form) => {
  const button = form.querySelector("button");
  const problem = form.querySelector("[role=alert]");
  problem.hidden = true;
  button.disabled = true;
  try {
    const { challenge, options } = await ask(form);
    const credential = await ceremonies[form.dataset.passkey](options);
    form.elements.challenge.value = challenge;
    form.elements.credential.value = JSON.stringify(credential.toJSON());
    form.submit();
  } catch (error) {
    problem.textContent = sentence(error);
    problem.hidden = false;
  } finally {
    button.disabled = false;
  }
};

for (const form of supported ? document.querySelectorAll("form[data-passkey]") : []) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(form);
  });
  form.hidden = false;
}
