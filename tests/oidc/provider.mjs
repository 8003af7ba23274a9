// A certified OpenID provider on loopback for the login tests: whoever logs in as NAME is NAME@lab.example.
// Usage: node provider.mjs CLIENT_REDIRECT_URI [PORT]; prints its issuer, and ends when its stdin does.
import http from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const jwk = { ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256' };
const server = http.createServer();
server.listen(Number(process.argv[3] ?? 0), '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{ client_id: 'balsam', client_secret: 'not a secret: of the tests', redirect_uris: [process.argv[2]] }],
    jwks: { keys: [jwk] },
    cookies: { keys: ['of the tests'] },
    conformIdTokenClaims: false,
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['preferred_username', 'groups'] },
    findAccount: (ctx, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: `${id}@lab.example`, email_verified: id !== 'unverified', preferred_username: id, groups: id === 'member' ? ['beamline'] : [] }),
    }),
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
