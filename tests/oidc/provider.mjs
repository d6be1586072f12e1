// A certified OpenID Connect provider (oidc-provider), as tests log in at it: on a loopback port, or with a certificate
// on all addresses.
// Arguments: port, users as JSON {subject: {groups, preferred_username}}, how many questions about each device are
// answered slow_down (it never says so by itself), and optionally host name, certificate and key as PEM files. New
// signing keys at every start.
import { generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import Provider, { errors } from "oidc-provider";

const port = Number(process.argv[2]);
const users = JSON.parse(process.argv[3]);
const slowDowns = Number(process.argv[4] ?? 0);
const [host, certificate, privateKey] = process.argv.slice(5);

const key = (type, options, alg, kid) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: "jwk" }),
  alg,
  kid: `${kid}-${process.pid}`,
  use: "sig",
});

const provider = new Provider(host ? `https://${host}:${port}` : `http://127.0.0.1:${port}`, {
  clients: ["portico", "other"].map((client_id) => ({
    client_id,
    token_endpoint_auth_method: "none",
    application_type: "native",
    grant_types: ["authorization_code", "urn:ietf:params:oauth:grant-type:device_code"],
    response_types: ["code"],
    redirect_uris: ["http://127.0.0.1/portico"],
    id_token_signed_response_alg: client_id === "portico" ? "ES256" : "RS256",
  })),
  jwks: {
    keys: [
      key("ec", { namedCurve: "P-256" }, "ES256", "ec"),
      key("rsa", { modulusLength: 2048 }, "RS256", "rsa"),
    ],
  },
  features: { deviceFlow: { enabled: true }, devInteractions: { enabled: true } },
  claims: { openid: ["sub"], profile: ["groups", "preferred_username"] },
  conformIdTokenClaims: false,
  ttl: { IdToken: 600 },
  cookies: { keys: ["only for tests"] },
  findAccount: (_context, id) =>
    users[id] && { accountId: id, claims: async () => ({ sub: id, ...users[id] }) },
});
provider.on("server_error", (_context, error) => console.error(error));
provider.on("grant.error", (_context, error) => console.error(error.message, error.error_detail));

const find = provider.DeviceCode.find.bind(provider.DeviceCode);
const asked = new Map();
provider.DeviceCode.find = async (value, options) => {
  if (Provider.ctx?.oidc.route === "token") {
    const before = asked.get(value) ?? 0;
    asked.set(value, before + 1);
    if (before < slowDowns) throw new errors.SlowDown();
  }
  return find(value, options);
};

if (host) {
  const files = { cert: readFileSync(certificate), key: readFileSync(privateKey) };
  createServer(files, provider.callback()).listen(port, "::", () => console.log("ready"));
} else {
  // The end of the test is the end of standard input.
  process.stdin.resume().on("end", () => process.exit(0));
  provider.listen(port, "127.0.0.1", () => console.log("ready"));
}
