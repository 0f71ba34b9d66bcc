// The official TypeScript client 2.x, unchanged: prints what it has seen as JSON.
//
//     node typescript_2.mjs (legacy | auto) (URL | COMMAND ARGUMENTS…)
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

const [mode, target, ...args] = process.argv.slice(2);
const transport = target.startsWith("http")
  ? new StreamableHTTPClientTransport(new URL(target))
  : new StdioClientTransport({ command: target, args, env: process.env, stderr: "inherit" });

const asked = [];
const progress = [];
const client = new Client(
  { name: "official", version: "2" },
  { capabilities: { elicitation: { form: {} } }, versionNegotiation: { mode } },
);
client.setRequestHandler("elicitation/create", async (request) => {
  asked.push(request.params.message);
  return { action: "accept", content: { name: "Ann" } };
});

await client.connect(transport);
const tools = await client.listTools();
const added = await client.callTool({ name: "add", arguments: { a: 1, b: 2 } });
const walked = await client.callTool(
  { name: "walk", arguments: { steps: 8 } },
  { onprogress: (heard) => progress.push(heard) },
);
const failed = await client.callTool({ name: "tool_error" });
const greeted = await client.callTool({ name: "greet" });
let refused = {};
try {
  await client.callTool({ name: "protocol_error" });
} catch (error) {
  refused = { code: error.code, message: error.message };
}
const seen = {
  version: client.getNegotiatedProtocolVersion(),
  tools: tools.tools.map((tool) => tool.name),
  structured: added.structuredContent,
  walked: walked.content[0].text,
  progress,
  error: [failed.isError, failed.content[0].text],
  protocol_error: refused,
  greeted: greeted.content[0].text,
  asked,
};
await client.close();
console.log(JSON.stringify(seen));
process.exit(0);
