// The names here are also global ones: a module's own come first.
const self = { name: 'proxy' };

async function fetchFrom(request, env) {
  const url = new URL(request.url);

  if (url.pathname === '/elsewhere') {
    return globalThis.fetch('https://example.com/');
  }
  if (url.pathname === '/later') {
    setTimeout(() => {
      throw new Error('thrown later');
    });
    return new Response('fine', { headers: { 'X-Name': self.name } });
  }

  const changed = new Request(request);
  changed.headers.set('X-Tenant', env.TENANT);
  changed.headers.delete('X-Secret');
  url.pathname = `/v2${url.pathname}`;

  return globalThis.fetch(new Request(url, changed));
}

async function fetch(request, env, ctx) {
  ctx.waitUntil(Promise.reject(new Error('log server is down')));
  return fetchFrom(request, env);
}

export default { fetch };
