
async function handleRequest(event) {
  let req = event.request;
  if (req.headers.get('Upgrade') === 'websocket') {
    return createWebsocketHandoff(event.request, 'ws_backend_name');
  } else {
    return await fetch(req, {backend: "non_ws_backend_name"});
  }
}

addEventListener("fetch", (event) => event.respondWith(handleRequest(event)));
