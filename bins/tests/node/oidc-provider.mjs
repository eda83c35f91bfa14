// A certified OpenID Connect provider on loopback: `node oidc-provider.mjs SETTINGS`, where SETTINGS is JSON. It prints
// the port that it took. Who signs in next is what was last sent to /person, as claims; nobody is asked for anything.
import { readFileSync } from "node:fs";
import { createServer } from "node:https";

const { certificate, key, modules, redirect } = JSON.parse(process.argv[2]);
const { default: Provider } = await import(`${modules}/oidc-provider/lib/index.js`);

const people = new Map();
let next = "nobody";
let provider;

const settings = {
  clients: [{
    client_id: "kakuremichi",
    client_secret: "a secret of the client",
    redirect_uris: [redirect],
  }],
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"], groups: ["groups"] },
  scopes: ["openid", "email", "profile", "groups"],
  cookies: { keys: ["a key of a test"] },
  features: { devInteractions: { enabled: false } },
  pkce: { methods: ["S256"], required: () => true },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (_, id) => ({ accountId: id, claims: () => people.get(id) }),
  loadExistingGrant: async (ctx) => {
    const { client, session } = ctx.oidc;
    const grant = new ctx.oidc.provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope("openid email profile groups");
    await grant.save();
    return grant;
  },
};

const answer = async (request, response) => {
  if (request.url === "/person") {
    let body = "";
    for await (const part of request) body += part;
    const person = JSON.parse(body);
    people.set(person.sub, person);
    next = person.sub;
    response.writeHead(204).end();
  } else if (request.url.startsWith("/interaction/")) {
    await provider.interactionFinished(request, response, { login: { accountId: next } });
  } else {
    provider.callback()(request, response);
  }
};

const server = createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, answer);
server.listen(0, "127.0.0.1", () => {
  const { port } = server.address();
  provider = new Provider(`https://localhost:${port}`, settings);
  console.log(`port ${port}`);
});
