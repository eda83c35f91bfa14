// An OAuth 2.0 server on loopback that knows nothing of OpenID Connect: `node oauth2-server.mjs SETTINGS`, where SETTINGS
// is JSON. It prints the port that it took. Who signs in next is what was last sent to /person, which is also what /user
// says of them; nobody is asked for anything. PKCE is a must, and answers are JSON for who asks for it.
import { readFileSync } from "node:fs";
import { createServer } from "node:https";

const { certificate, key, modules, redirect } = JSON.parse(process.argv[2]);
const { default: OAuth2Server } = await import(`${modules}/@node-oauth/oauth2-server/index.js`);

const client = { id: "kakuremichi", grants: ["authorization_code"], redirectUris: [redirect] };
const codes = new Map();
const tokens = new Map();
let next;

// In the header a secret is encoded as in a form (RFC 6749, section 2.3.1), and the library leaves it so.
const plain = (secret) => decodeURIComponent(secret.replaceAll("+", " "));

const server = new OAuth2Server({
  model: {
    getClient: (id, secret) =>
      id === client.id && (secret === null || plain(secret) === "a secret of the client") ? client : undefined,
    validateScope: (_user, _client, scope) => scope ?? [],
    saveAuthorizationCode: (code, client, user) => {
      codes.set(code.authorizationCode, { ...code, client, user });
      return codes.get(code.authorizationCode);
    },
    getAuthorizationCode: (code) => codes.get(code),
    revokeAuthorizationCode: (code) => codes.delete(code.authorizationCode),
    saveToken: (token, client, user) => {
      tokens.set(token.accessToken, { ...token, client, user });
      return tokens.get(token.accessToken);
    },
    getAccessToken: (token) => tokens.get(token),
  },
});

const handle = async (request, url, body) => {
  const query = Object.fromEntries(url.searchParams);
  const asked = new OAuth2Server.Request({
    method: request.method,
    query,
    headers: request.headers,
    body: Object.fromEntries(new URLSearchParams(body)),
  });
  const answer = new OAuth2Server.Response();
  switch (url.pathname) {
    case "/person":
      next = JSON.parse(body);
      return { status: 204 };
    case "/authorize":
      if (query.code_challenge_method !== "S256") {
        return { status: 400, body: { error: "invalid_request" } };
      }
      await server.authorize(asked, answer, { authenticateHandler: { handle: () => next } });
      break;
    case "/token":
      if (!request.headers.accept?.includes("application/json")) {
        return { status: 406 };
      }
      await server.token(asked, answer);
      break;
    case "/user":
      return { status: 200, body: (await server.authenticate(asked, answer)).user };
    default:
      return { status: 404 };
  }
  return { status: answer.status, headers: answer.headers, body: answer.body };
};

const listener = createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  let answer;
  try {
    answer = await handle(request, new URL(request.url, "https://localhost"), body);
  } catch (error) {
    answer = { status: error.code ?? 500, body: { error: error.name, error_description: error.message } };
  }
  response.writeHead(answer.status, { ...answer.headers, "content-type": "application/json" });
  response.end(answer.body && JSON.stringify(answer.body));
});
listener.listen(0, "127.0.0.1", () => console.log(`port ${listener.address().port}`));
