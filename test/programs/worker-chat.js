import { DurableObject } from 'cloudflare:workers';

// Worker
export default {
  async fetch(request, env, ctx) {
    const url = new URL(request.url);
    const [, kind, name, what] = url.pathname.split('/');

    if (kind !== 'room' || !name) {
      return new Response('Use /room/NAME', { status: 404 });
    }

    const id = env.ROOMS.idFromName(name);
    const stub = env.ROOMS.get(id);

    if (what === 'websocket') {
      const upgradeHeader = request.headers.get('Upgrade');
      if (!upgradeHeader || upgradeHeader !== 'websocket') {
        return new Response('Expected Upgrade: websocket', { status: 426 });
      }
      return stub.fetch(request);
    }

    const answer = await stub.fetch('https://room/count');
    return Response.json({ room: name, greeting: env.GREETING, ...(await answer.json()) });
  },
};

// Durable Object
export class ChatRoom extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    this.sessions = new Map();
    this.messages = 0;
    this.ctx.getWebSockets().forEach((ws) => {
      this.sessions.set(ws, { ...ws.deserializeAttachment() });
    });
    this.ctx.setWebSocketAutoResponse(new WebSocketRequestResponsePair('ping', 'pong'));
  }

  async fetch(request) {
    const url = new URL(request.url);
    if (url.pathname === '/count') {
      return new Response(JSON.stringify({ here: this.ctx.getWebSockets().length, messages: this.messages }));
    }

    const webSocketPair = new WebSocketPair();
    const [client, server] = Object.values(webSocketPair);

    this.ctx.acceptWebSocket(server);

    const name = url.searchParams.get('name') ?? 'somebody';
    server.serializeAttachment({ name });
    this.sessions.set(server, { name });
    this.broadcast(`${name} joined`);

    return new Response(null, { status: 101, webSocket: client });
  }

  async webSocketMessage(ws, message) {
    const { name } = this.sessions.get(ws);
    this.messages += 1;
    this.broadcast(`${name}: ${message}`);
  }

  async webSocketClose(ws, code, reason, wasClean) {
    const { name } = this.sessions.get(ws);
    this.sessions.delete(ws);
    this.broadcast(`${name} left`);
    ws.close(code, 'Durable Object is closing WebSocket');
  }

  broadcast(text) {
    this.ctx.getWebSockets().forEach((ws) => {
      ws.send(text);
    });
  }
}
