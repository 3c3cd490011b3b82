import httpProxy from "headrace/http-proxy";

// Create a proxy server for websockets
httpProxy
  .createServer({
    target: "ws://localhost:9014",
    ws: true,
  })
  .listen(8014);
