import * as http from "node:http";
import { createProxyServer } from "headrace/http-proxy";

// Setup our server to proxy standard HTTP requests

const proxy = createProxyServer({
  target: {
    host: "localhost",
    port: 9015,
  },
});
var proxyServer = http.createServer((req, res) => {
  proxy.web(req, res);
});

// Listen to the `upgrade` event and proxy the
// WebSocket requests as well.
proxyServer.on("upgrade", (req, socket, head) => {
  proxy.ws(req, socket, head);
});

proxyServer.listen(8015);
